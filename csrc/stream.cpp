#include "stream.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "parallel.hpp"

namespace tresse {
namespace {

void prefetch(const void* address) noexcept { __builtin_prefetch(address, 0, 3); }

// Requests the first cache lines; then the hardware notices the sequence and prefetches the rest.
void prefetch_lines(const std::byte* begin, const std::byte* end) noexcept {
  constexpr std::ptrdiff_t kLine = 64, kAhead = 1024;
  end = begin + std::min(end - begin, kAhead);
  for (; begin < end; begin += kLine) prefetch(begin);
}

std::int64_t num_sentences(const Place& place) noexcept {
  const auto& offsets = place.shard->document_sentences;
  return offsets[place.document + 1] - offsets[place.document];
}

const std::uint16_t* sentence_lengths(const Place& place) noexcept {
  return place.shard->sentence_lengths.data() + place.shard->document_sentences[place.document];
}

void check_documents(std::span<const std::int64_t> column, std::int64_t num_keys,
                     std::int64_t num_documents) {
  if (static_cast<std::int64_t>(column.size()) != num_keys)
    throw std::invalid_argument("the columns of translations differ in length");
  const auto [least, most] = std::ranges::minmax(column);
  if (least < 0 || most >= num_documents)
    throw std::invalid_argument("translations name the documents " + std::to_string(least) +
                                " to " + std::to_string(most) + " of " +
                                std::to_string(num_documents));
}

[[noreturn]] void throw_inconsistent(std::int64_t document) {
  throw_contradiction("document " + std::to_string(document) +
                      ": its offsets, sentence lengths and tokens do not fit each other");
}

// Throws unless [offsets[i], offsets[i + 1]) is a range of [0, size) that is not empty.
void check_range(std::span<const std::int64_t> offsets, std::int64_t i, std::int64_t size) {
  if (offsets[i] < 0 || offsets[i] >= offsets[i + 1] || offsets[i + 1] > size)
    throw_inconsistent(i);
}

// Throws unless translations have the same number of sentences, within their shards.
void check_sentences(std::span<const Place> places) {
  for (const auto& place : places) {
    check_range(place.shard->document_sentences, place.document,
                static_cast<std::int64_t>(place.shard->sentence_lengths.size()));
    if (num_sentences(place) != num_sentences(places[0])) throw_inconsistent(place.document);
  }
}

}  // namespace

Stream::Stream(const CorpusView& corpus, StreamSpec spec, Specials specials)
    : corpus_(&corpus), spec_(std::move(spec)), specials_(specials) {
  const auto width = spec_.views.size();
  if (width == 0 || (spec_.mode == Mode::mono) != (width == 1))
    throw std::invalid_argument("a mono stream takes one language, the others two or more");
  for (auto view : spec_.views)
    if (view >= corpus.views.size())
      throw std::invalid_argument("view " + std::to_string(view) + " of a language is unknown");
  if (spec_.documents.size() != (spec_.mode == Mode::mono ? 0 : width))
    throw std::invalid_argument("a stream of several languages takes a column of documents each");
  num_documents_ = spec_.mode == Mode::mono ? corpus.views[spec_.views[0]].num_documents()
                                            : static_cast<std::int64_t>(spec_.documents[0].size());
  if (num_documents_ == 0) throw std::invalid_argument("the stream has no documents");
  for (std::size_t j = 0; j < spec_.documents.size(); ++j)
    check_documents(spec_.documents[j], num_documents_,
                    corpus.views[spec_.views[j]].num_documents());
  num_separators_ = (specials_.bos >= 0) + (specials_.eos >= 0);
}

// Uniform draws are made once in L epochs, during which the languages take turns.
std::int64_t Stream::draw_period() const noexcept {
  const bool uniform = spec_.mode == Mode::sample && spec_.thresholds.empty();
  return uniform ? static_cast<std::int64_t>(spec_.views.size()) : 1;
}

std::int64_t Stream::length_period() const noexcept {
  const bool varies = !spec_.thresholds.empty() || specials_.language_switch >= 0;
  return spec_.mode == Mode::sample && varies ? 0 : draw_period();
}

Permutation Stream::order(std::int64_t epoch) const noexcept {
  return {static_cast<std::uint64_t>(num_documents_),
          hash_words(spec_.seed, Domain::order, spec_.stage, spec_.index, epoch)};
}

EpochKeys Stream::keys(std::int64_t epoch) const noexcept {
  const auto key = [&](Domain domain, std::int64_t number) {
    return hash_words(spec_.seed, domain, spec_.stage, spec_.index, number);
  };
  const auto period = draw_period();
  return {epoch, key(Domain::draw, epoch / period), key(Domain::language_order, epoch),
          static_cast<std::uint64_t>(epoch % period)};
}

void Stream::find_places(std::int64_t index, std::span<Place> places) const {
  for (std::size_t j = 0; j < places.size(); ++j) {
    const auto document = spec_.documents.empty() ? index : spec_.documents[j][index];
    places[j] = corpus_->views[spec_.views[j]].locate(document);
  }
}

void Stream::lengths(const EpochKeys& keys, std::span<const std::int64_t> documents,
                     std::span<std::int64_t> out) const {
  constexpr std::size_t kBatch = 16;  // documents whose cache misses overlap
  const auto width = spec_.views.size();
  std::vector<Place> places(kBatch * width);
  for (std::size_t first = 0; first < documents.size(); first += kBatch) {
    const auto batch = documents.subspan(first, std::min(kBatch, documents.size() - first));
    const auto used = std::span(places).first(batch.size() * width);
    for (const auto& column : spec_.documents)
      for (auto index : batch) prefetch(&column[index]);
    for (std::size_t i = 0; i < batch.size(); ++i)
      find_places(batch[i], used.subspan(i * width, width));
    for (const auto& [shard, document] : used) {
      prefetch(&shard->document_lengths[document]);
      if (width > 1) prefetch(&shard->document_sentences[document]);
    }
    if (spec_.mode == Mode::sample)
      for (const auto& place : used) prefetch(sentence_lengths(place));
    for (std::size_t i = 0; i < batch.size(); ++i)
      out[first + i] = length(keys, used.subspan(i * width, width));
  }
}

std::int64_t Stream::find_uneven(const TableCache& cache, int threads) const {
  const std::vector<std::int64_t> even{num_documents_};
  if (spec_.mode == Mode::mono || cache.load("even") == even) return -1;
  const auto parts = num_documents_ < 4096 ? 1 : threads;
  std::vector<std::int64_t> found(parts, -1);
  parallel_parts(num_documents_, parts, spawn, [&](int part, std::int64_t begin, std::int64_t end) {
    found[part] = find_uneven(begin, end);
  });
  for (const auto uneven : found)
    if (uneven >= 0) return uneven;
  cache.store("even", even);
  return -1;
}

std::int64_t Stream::find_uneven(std::int64_t begin, std::int64_t end) const {
  constexpr std::int64_t kBatch = 16;  // documents whose cache misses overlap
  const auto width = spec_.views.size();
  std::vector<Place> places(kBatch * width);
  for (auto first = begin; first < end; first += kBatch) {
    const auto size = std::min(kBatch, end - first);
    for (std::int64_t i = 0; i < size; ++i)
      find_places(first + i, std::span(places).subspan(i * width, width));
    for (const auto& [shard, document] : std::span(places).first(size * width))
      prefetch(&shard->document_sentences[document]);
    for (std::int64_t i = 0; i < size; ++i)
      for (std::size_t j = 1; j < width; ++j)
        if (num_sentences(places[i * width + j]) != num_sentences(places[i * width]))
          return first + i;
  }
  return -1;
}

std::int64_t Stream::length(const EpochKeys& keys, std::span<const Place> places) const {
  std::int64_t sum = 0;
  for (const auto& [shard, document] : places) {
    const auto tokens = shard->document_lengths[document];
    if (tokens == 0 || tokens > shard->num_tokens)
      throw_contradiction("document " + std::to_string(document) + " of a shard has " +
                          std::to_string(tokens) + " tokens of its " +
                          std::to_string(shard->num_tokens));
    sum += tokens;
  }
  if (spec_.mode != Mode::mono) check_sentences(places);
  if (spec_.mode == Mode::sample) sum = sampled_length(keys, places);
  if (spec_.mode == Mode::alternate && specials_.language_switch >= 0)
    sum += num_sentences(places[0]) * static_cast<std::int64_t>(places.size()) - 1;
  return sum + num_separators_;
}

std::int64_t Stream::sampled_length(const EpochKeys& keys, std::span<const Place> places) const {
  const auto& [shard, document] = places[0];
  const auto hash = fold(keys.draw, shard->key_hash[document]);
  const auto sentences = num_sentences(places[0]);
  std::array<const std::uint16_t*, kMaxLanguages> lengths;
  for (std::size_t j = 0; j < places.size(); ++j) lengths[j] = sentence_lengths(places[j]);
  std::int64_t sum = 0, switches = 0;
  auto previous = draw(keys, hash, 0);
  for (std::int64_t s = 0; s < sentences; ++s) {
    const auto j = draw(keys, hash, s);
    sum += lengths[j][s];
    switches += j != previous;
    previous = j;
  }
  return specials_.language_switch >= 0 ? sum + switches : sum;
}

std::size_t Stream::draw(const EpochKeys& keys, std::uint64_t document_hash,
                         std::int64_t sentence) const {
  const auto hash = fold(document_hash, static_cast<std::uint64_t>(sentence));
  if (spec_.thresholds.empty()) {
    const auto drawn = bounded(hash, spec_.views.size()) + keys.shift;
    return drawn < spec_.views.size() ? drawn : drawn - spec_.views.size();
  }
  std::size_t language = 0;
  for (auto threshold : spec_.thresholds) language += hash >= threshold;
  return language;
}

void Stream::find(const Document& document) const {
  for (const auto& column : spec_.documents) prefetch(&column[document.index]);
}

void Stream::locate(Document& document) const {
  document.places.resize(spec_.views.size());
  find_places(document.index, document.places);
  for (const auto& [shard, i] : document.places) {
    prefetch(&shard->document_tokens[i]);
    if (spec_.mode != Mode::mono) prefetch(&shard->document_sentences[i]);
  }
  const auto& [shard, i] = document.places[0];
  if (spec_.mode != Mode::mono) prefetch(&shard->key_hash[i]);
}

void Stream::open(Document& document) const {
  document.parts.resize(document.places.size());
  if (spec_.mode != Mode::mono) check_sentences(document.places);
  for (std::size_t j = 0; j < document.parts.size(); ++j) {
    const auto& [shard, i] = document.places[j];
    auto& part = document.parts[j];
    check_range(shard->document_tokens, i, shard->num_tokens);
    part.tokens = shard->tokens + shard->document_tokens[i] * corpus_->token_bytes;
    part.end = shard->tokens + shard->document_tokens[i + 1] * corpus_->token_bytes;
    if (spec_.mode == Mode::mono) continue;
    part.sentences = sentence_lengths(document.places[j]);
    prefetch(part.sentences);
  }
}

void Stream::prefetch_tokens(const Document& document) const {
  for (const auto& part : document.parts) prefetch_lines(part.tokens, part.end);
}

void Stream::expand(Document& document) const {
  document.runs.clear();
  if (specials_.bos >= 0) add_special(document, Special::bos, 0);
  if (spec_.mode == Mode::mono) expand_mono(document);
  if (spec_.mode == Mode::alternate) expand_alternate(document);
  if (spec_.mode == Mode::sample) expand_sample(document);
  for (const auto& part : document.parts)
    if (part.tokens != part.end) throw_inconsistent(document.index);
  if (specials_.bos >= 0) document.runs[0].language = document.runs[1].language;
  if (specials_.eos >= 0) add_special(document, Special::eos, document.runs.back().language);
}

void Stream::expand_mono(Document& document) const {
  auto& part = document.parts[0];
  const auto length = (part.end - part.tokens) / corpus_->token_bytes;
  document.runs.push_back(
      {part.tokens, static_cast<std::uint32_t>(length), language(0), Special::none});
  part.tokens = part.end;
}

void Stream::expand_alternate(Document& document) const {
  order_languages(document);
  const auto sentences = num_sentences(document.places[0]);
  for (std::int64_t s = 0; s < sentences; ++s)
    for (auto j : document.language_order) {
      add_sentence(document, j, s);
      document.parts[j].tokens += document.parts[j].sentences[s] * corpus_->token_bytes;
    }
}

void Stream::order_languages(Document& document) const {
  auto& order = document.language_order;
  order.resize(document.parts.size());
  std::iota(order.begin(), order.end(), 0);
  if (!spec_.random_order) return;
  const auto& [shard, i] = document.places[0];
  const auto hash = fold(document.keys.language_order, shard->key_hash[i]);
  for (auto j = order.size() - 1; j > 0; --j)  // Fisher-Yates
    std::swap(order[j], order[bounded(fold(hash, j), j + 1)]);
}

void Stream::expand_sample(Document& document) const {
  const auto& [shard, i] = document.places[0];
  const auto hash = fold(document.keys.draw, shard->key_hash[i]);
  const auto sentences = num_sentences(document.places[0]);
  for (std::int64_t s = 0; s < sentences; ++s) {
    add_sentence(document, draw(document.keys, hash, s), s);
    for (auto& part : document.parts) part.tokens += part.sentences[s] * corpus_->token_bytes;
  }
}

void Stream::add_sentence(Document& document, std::size_t j, std::int64_t sentence) const {
  const auto own = language(j);
  auto& runs = document.runs;
  if (specials_.language_switch >= 0 && !runs.empty() && runs.back().special == Special::none &&
      runs.back().language != own)
    add_special(document, Special::language_switch, own);
  const auto& part = document.parts[j];
  runs.push_back({part.tokens, part.sentences[sentence], own, Special::none});
}

void Stream::add_special(Document& document, Special special, std::uint8_t language) const {
  document.runs.push_back({nullptr, 1, language, special});
}

}  // namespace tresse
