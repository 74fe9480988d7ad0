#include "timeline.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>
#include <string>

namespace tresse {
namespace {

constexpr std::size_t kTablesInMemory = 4;
constexpr std::size_t kRememberedLocations = 16;  // for as many threads or loaders
constexpr std::int64_t kChecked = 4;  // strides of a cached table that are summed again
constexpr int kBarrenEpochs = 64;     // draws can leave some epochs without targets, not this many

}  // namespace

EpochTable::EpochTable(const Stream& stream, std::int64_t epoch, const TableCache& cache,
                       int threads)
    : stream_(&stream), keys_(stream.keys(epoch)), order_(stream.order(epoch)) {
  const auto name = "epoch-" + std::to_string(epoch);
  cumulative_ = cache.load(name);
  if (is_of_stream()) return;
  build(threads);
  cache.store(name, cumulative_);
}

void EpochTable::build(int threads) {
  const auto strides = num_strides();
  cumulative_.assign(strides + 1, 0);
  const auto sum_strides = [&](int, std::int64_t begin, std::int64_t end) {
    for (auto i = begin; i < end; ++i) cumulative_[i + 1] = sum(i);
  };
  parallel_parts(strides, strides < 64 ? 1 : threads, spawn, sum_strides);
  std::partial_sum(cumulative_.begin(), cumulative_.end(), cumulative_.begin());
}

// Checks a cached table by a sample: with another order or other lengths it would differ anywhere.
bool EpochTable::is_of_stream() const {
  const auto strides = num_strides();
  if (static_cast<std::int64_t>(cumulative_.size()) != strides + 1 || cumulative_[0] != 0)
    return false;
  for (std::int64_t i = 0; i < strides; ++i)  // a document has a token at least
    if (cumulative_[i + 1] - cumulative_[i] < end_of(i) - i * kStride) return false;
  for (std::int64_t k = 0; k < kChecked; ++k) {
    const auto i = (strides - 1) * k / (kChecked - 1);
    if (cumulative_[i + 1] - cumulative_[i] != sum(i)) return false;
  }
  return true;
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
    promise.set_value(std::make_shared<EpochTable>(*stream_, epoch, *cache_, default_threads()));
  } catch (...) {
    promise.set_exception(std::current_exception());
  }
  return future.get();
}

std::int64_t Timeline::num_tokens(std::int64_t epoch) {
  const auto key = stream_->length_period() == 1 ? 0 : epoch;
  {
    std::lock_guard lock(mutex_);
    if (auto found = num_tokens_.find(key); found != num_tokens_.end()) return found->second;
  }
  const auto tokens = table(epoch)->num_tokens();
  std::lock_guard lock(mutex_);
  return num_tokens_[key] = tokens;
}

// Returns the epoch in which the running sum of `measure` passes `amount`, the rest of `amount` in
// it, and the number of tokens before it. Whole periods of epochs are skipped at once.
Timeline::Span Timeline::find_epoch(std::int64_t amount, const Measure& measure) {
  Span found{0, amount, 0};
  if (const auto period = stream_->length_period()) {
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
      "the stream has no targets: every document is one token and masked; pack without "
      "mask_documents or add separators");
}

Location Timeline::locate(std::int64_t token) {
  {
    std::lock_guard lock(mutex_);
    for (const auto& [known, location] : remembered_)
      if (known == token) return location;
  }
  const auto found = find_epoch(token, [this](std::int64_t epoch) { return num_tokens(epoch); });
  if (found.rest > num_tokens(found.epoch) / 2) build_ahead(found.epoch + 1);
  return table(found.epoch)->locate(found.rest);
}

void Timeline::remember(std::int64_t token, Location location) {
  std::lock_guard lock(mutex_);
  remembered_.emplace_front(token, location);
  if (remembered_.size() > kRememberedLocations) remembered_.pop_back();
}

std::int64_t Timeline::last_inner_target(std::int64_t targets) {
  const auto inner = [this](std::int64_t epoch) {
    return num_tokens(epoch) - stream_->num_documents();
  };
  const auto found = find_epoch(targets - 1, inner);
  return found.start + table(found.epoch)->inner_token(found.rest + 1);
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
