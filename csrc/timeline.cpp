#include "timeline.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>
#include <string>

#include "targets.hpp"

namespace tresse {
namespace {

constexpr std::size_t kTablesInMemory = 4;
constexpr std::size_t kRememberedLocations = 16;  // for as many threads or loaders
constexpr std::int64_t kChecked = 4;  // strides of a cached table that are summed again
constexpr int kBarrenEpochs = 64;     // draws can leave some epochs without targets, not this many

}  // namespace

EpochTable::EpochTable(const Stream& stream, std::int64_t epoch, bool mask_documents,
                       const TableCache& cache, int threads)
    : stream_(&stream),
      keys_(stream.keys(epoch)),
      order_(stream.order(epoch)),
      mask_documents_(mask_documents) {
  const auto name = "epoch-" + std::to_string(epoch);
  cumulative_ = cumulate(name, &EpochTable::sum, true, cache, threads);
  if (stream.counts_all()) return;
  const auto of_targets = name + (mask_documents ? "-masked-targets" : "-targets");
  targets_ = cumulate(of_targets, &EpochTable::sum_targets, false, cache, threads);
}

std::vector<std::int64_t> EpochTable::cumulate(const std::string& name, Sum sum, bool is_positive,
                                               const TableCache& cache, int threads) const {
  auto cumulative = cache.load(name);
  if (is_of_stream(cumulative, sum, is_positive)) return cumulative;
  const auto strides = num_strides();
  cumulative.assign(strides + 1, 0);
  const auto sum_strides = [&](int, std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) cumulative[i + 1] = (this->*sum)(i);
  };
  parallel_parts(strides, strides < 64 ? 1 : threads, spawn, sum_strides);
  std::partial_sum(cumulative.begin(), cumulative.end(), cumulative.begin());
  cache.store(name, cumulative);
  return cumulative;
}

// Checks a cached table by a sample: with another order or other lengths it would differ anywhere.
bool EpochTable::is_of_stream(std::span<const std::int64_t> cumulative, Sum sum,
                              bool is_positive) const {
  const auto strides = num_strides();
  if (static_cast<std::int64_t>(cumulative.size()) != strides + 1 || cumulative[0] != 0)
    return false;
  for (std::int64_t i = 0; i < strides; ++i) {
    const auto least = is_positive ? end_of(i) - i * kStride : 0;  // a document has a token
    if (cumulative[i + 1] - cumulative[i] < least) return false;
  }
  for (std::int64_t k = 0; k < kChecked; ++k) {
    const auto i = (strides - 1) * k / (kChecked - 1);
    if (cumulative[i + 1] - cumulative[i] != (this->*sum)(i)) return false;
  }
  return true;
}

std::int64_t EpochTable::sum_targets(std::int64_t stride) const {
  std::array<std::int64_t, kStride> documents;
  const auto first = stride * kStride;
  const auto own = std::span(documents).first(end_of(stride) - first);
  order_.map(first, own);
  std::int64_t targets = 0;
  for (const auto document : own)
    targets += count_targets(stream_->lay_out(keys_, document), mask_documents_, INT64_MAX);
  return targets;
}

std::int64_t EpochTable::num_strides() const noexcept {
  return (stream_->num_documents() + kStride - 1) / kStride;
}

std::int64_t EpochTable::end_of(std::int64_t stride) const noexcept {
  return std::min((stride + 1) * kStride, stream_->num_documents());
}

std::int64_t EpochTable::sum(std::int64_t stride) const {
  std::array<std::int64_t, kStride> buffer;
  const auto lengths = measure(stride * kStride, buffer);
  return std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
}

std::span<const std::int64_t> EpochTable::measure(std::int64_t first,
                                                  std::span<std::int64_t> lengths) const {
  std::array<std::int64_t, kStride> documents;
  const auto left = static_cast<std::size_t>(stream_->num_documents() - first);
  const auto size = std::min({left, lengths.size(), documents.size()});
  order_.map(first, std::span(documents).first(size));
  stream_->lengths(keys_, std::span(documents).first(size), lengths);
  return lengths.first(size);
}

Location EpochTable::locate(std::int64_t token) const {
  const auto next = std::upper_bound(cumulative_.begin(), cumulative_.end(), token);
  const auto stride = next - cumulative_.begin() - 1;
  auto offset = token - cumulative_[stride];
  std::array<std::int64_t, kStride / 4> buffer;
  for (auto position = stride * kStride; position < end_of(stride);)
    for (auto length : measure(position, buffer)) {
      if (offset < length) return {keys_.epoch, position, offset};
      offset -= length;
      ++position;
    }
  throw_contradiction("the documents of an epoch have fewer tokens than its table says");
}

std::int64_t EpochTable::inner_token(std::int64_t n) const {
  // A document of length l holds l - 1 tokens that do not begin it.
  std::int64_t low = 0, high = static_cast<std::int64_t>(cumulative_.size()) - 1;
  while (high - low > 1) {
    const auto middle = (low + high) / 2;
    (cumulative_[middle] - middle * kStride < n ? low : high) = middle;
  }
  auto start = cumulative_[low];
  n -= start - low * kStride;
  std::array<std::int64_t, kStride> buffer;
  for (auto length : measure(low * kStride, buffer)) {
    if (n < length) break;
    n -= length - 1;
    start += length;
  }
  return start + n;
}

std::int64_t EpochTable::target(std::int64_t n) const {
  const auto next = std::lower_bound(targets_.begin(), targets_.end(), n);
  const auto stride = next - targets_.begin() - 1;
  auto start = cumulative_[stride];
  n -= targets_[stride];
  std::array<std::int64_t, kStride> documents;
  const auto own = std::span(documents).first(end_of(stride) - stride * kStride);
  order_.map(stride * kStride, own);
  for (const auto document : own) {
    const auto runs = stream_->lay_out(keys_, document);
    const auto targets = count_targets(runs, mask_documents_, INT64_MAX);
    if (n <= targets) return start + find_target(runs, mask_documents_, n);
    n -= targets;
    for (const auto& run : runs) start += run.length;
  }
  throw_contradiction("the documents of an epoch have fewer targets than its table says");
}

Timeline::Table Timeline::table(std::int64_t epoch) {
  std::promise<Table> promise;
  std::unique_lock lock(mutex_);
  if (auto found = tables_.find(epoch); found != tables_.end()) {
    auto future = found->second;
    lock.unlock();
    return future.get();
  }
  if (tables_.size() >= kTablesInMemory)
    tables_.erase(epoch > tables_.begin()->first ? tables_.begin() : std::prev(tables_.end()));
  auto future = tables_.emplace(epoch, promise.get_future().share()).first->second;
  lock.unlock();
  try {
    promise.set_value(std::make_shared<EpochTable>(*stream_, epoch, mask_documents_, *cache_,
                                                   default_threads()));
  } catch (...) {
    promise.set_exception(std::current_exception());
  }
  return future.get();
}

std::int64_t Timeline::sum(Sums& known, std::int64_t epoch, std::int64_t period,
                           std::int64_t (EpochTable::*of)() const noexcept) {
  const auto key = period == 1 ? 0 : epoch;
  {
    std::lock_guard lock(mutex_);
    if (auto found = known.find(key); found != known.end()) return found->second;
  }
  const auto sum = (*table(epoch).*of)();
  std::lock_guard lock(mutex_);
  return known[key] = sum;
}

// Returns the epoch in which the running sum of `measure` passes `amount`, the rest of `amount` in
// it, and the number of tokens before it. Whole periods of epochs, after which tokens and measure are
// the same again, are skipped at once.
Timeline::Span Timeline::find_epoch(std::int64_t amount, std::int64_t period,
                                    const Measure& measure) {
  Span found{0, amount, 0};
  if (period > 0) {
    std::int64_t per_period = 0, tokens = 0;
    for (std::int64_t epoch = 0; epoch < period; ++epoch) {
      per_period += measure(epoch);
      tokens += num_tokens(epoch);
    }
    const auto periods = per_period == 0 ? 0 : amount / per_period;
    found = {periods * period, amount - periods * per_period, periods * tokens};
  }
  for (int barren = 0; barren < kBarrenEpochs; ++found.epoch) {
    const auto measured = measure(found.epoch);
    if (found.rest < measured) return found;
    found.rest -= measured;
    found.start += num_tokens(found.epoch);
    barren = measured == 0 ? barren + 1 : 0;
  }
  throw std::invalid_argument(
      stream_->counts_all()
          ? "the stream has no targets: every document is one token and masked; pack without "
            "mask_documents or add separators"
          : "the stream has no targets: no language that counts has a token after another one");
}

Location Timeline::locate(std::int64_t token) {
  {
    std::lock_guard lock(mutex_);
    for (const auto& [known, location] : remembered_)
      if (known == token) return location;
  }
  const auto tokens = [this](std::int64_t epoch) { return num_tokens(epoch); };
  const auto found = find_epoch(token, stream_->length_period(), tokens);
  if (found.rest > num_tokens(found.epoch) / 2) build_ahead(found.epoch + 1);
  return table(found.epoch)->locate(found.rest);
}

void Timeline::remember(std::int64_t token, Location location) {
  std::lock_guard lock(mutex_);
  remembered_.emplace_front(token, location);
  if (remembered_.size() > kRememberedLocations) remembered_.pop_back();
}

std::int64_t Timeline::last_target(std::int64_t targets) {
  if (stream_->counts_all() && !mask_documents_) return targets;
  if (stream_->counts_all()) {
    const auto inner = [this](std::int64_t epoch) {
      return num_tokens(epoch) - stream_->num_documents();
    };
    const auto found = find_epoch(targets - 1, stream_->length_period(), inner);
    return found.start + table(found.epoch)->inner_token(found.rest + 1);
  }
  // The first token of all is no label.
  if (!mask_documents_) {
    const auto first = stream_->order(0)(0);
    targets += stream_->lay_out(stream_->keys(0), static_cast<std::int64_t>(first))[0].counted;
  }
  const auto counted = [this](std::int64_t epoch) { return num_targets(epoch); };
  const auto found = find_epoch(targets - 1, stream_->target_period(), counted);
  return found.start + table(found.epoch)->target(found.rest + 1);
}

void Timeline::build_ahead(std::int64_t epoch) {
  std::lock_guard lock(mutex_);
  if (building_ahead_ || tables_.contains(epoch)) return;
  building_ahead_ = true;
  ahead_.emplace([this, epoch] {
    try {
      num_tokens(epoch);
      table(epoch);
    } catch (...) {  // the caller that needs the table gets the error
    }
    building_ahead_ = false;
  });
}

}  // namespace tresse
