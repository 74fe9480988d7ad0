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

// The lengths of the words of a document.
std::span<const std::uint16_t> word_lengths(const Place& place) {
  const auto& shard = *place.shard;
  if (shard.document_words.empty())
    throw std::invalid_argument("a shard of the stream has no words");
  check_range(shard.document_words, place.document,
              static_cast<std::int64_t>(shard.word_lengths.size()));
  const auto first = shard.document_words[place.document];
  return shard.word_lengths.subspan(first, shard.document_words[place.document + 1] - first);
}

// The number of words in each sentence of a document. Throws unless they partition sentences.
void count_words(const Place& place, std::vector<std::int64_t>& counts) {
  counts.clear();
  const auto words = word_lengths(place);
  std::size_t next = 0;
  for (std::int64_t s = 0; s < num_sentences(place); ++s) {
    std::int64_t left = sentence_lengths(place)[s];
    const auto first = next;
    for (; left > 0 && next < words.size(); ++next) left -= words[next];
    if (left != 0) throw_inconsistent(place.document);
    counts.push_back(static_cast<std::int64_t>(next - first));
  }
}

}  // namespace

Stream::Stream(const CorpusView& corpus, StreamSpec spec, Specials specials)
    : corpus_(&corpus), spec_(std::move(spec)), specials_(specials) {
  const auto width = spec_.views.size();
  if (spec_.num_given >= width || (spec_.mode == Mode::mono) != (num_braided() == 1))
    throw std::invalid_argument("a mono stream takes one language, the others two or more");
  for (auto view : spec_.views)
    if (view >= corpus.views.size())
      throw std::invalid_argument("view " + std::to_string(view) + " of a language is unknown");
  if (spec_.documents.size() != (width == 1 ? 0 : width))
    throw std::invalid_argument("a stream of several languages takes a column of documents each");
  if (!spec_.templates.empty() && spec_.templates.size() != width)
    throw std::invalid_argument("a stream takes a template for each language, or none");
  if (!spec_.counted.empty() && spec_.counted.size() != width)
    throw std::invalid_argument("a stream says of each language whether it counts, or of none");
  if (spec_.least_words < 1 || spec_.least_words > spec_.most_words)
    throw std::invalid_argument("a group has at least one word, and at most as many as its limit");
  num_documents_ = width == 1 ? corpus.views[spec_.views[0]].num_documents()
                              : static_cast<std::int64_t>(spec_.documents[0].size());
  if (num_documents_ == 0) throw std::invalid_argument("the stream has no documents");
  for (std::size_t j = 0; j < spec_.documents.size(); ++j)
    check_documents(spec_.documents[j], num_documents_,
                    corpus.views[spec_.views[j]].num_documents());
  num_separators_ = (specials_.bos >= 0) + (specials_.eos >= 0);
  sums_lengths_ = spec_.templates.empty() && spec_.num_given == 0 &&
                  (spec_.mode == Mode::mono || spec_.unit == Unit::sentence);
}

// Uniform draws are made once in L epochs, during which the languages take turns.
std::int64_t Stream::draw_period() const noexcept {
  const bool uniform = spec_.mode == Mode::sample && spec_.thresholds.empty();
  return uniform ? static_cast<std::int64_t>(num_braided()) : 1;
}

std::int64_t Stream::length_period() const noexcept {
  // Where tokens stand at each change of language, lengths follow the draws.
  const bool marks_changes = specials_.language_switch >= 0 || !spec_.templates.empty();
  const bool draws_languages = spec_.mode == Mode::sample;
  const bool draws_groups = spec_.mode != Mode::mono && spec_.unit == Unit::words &&
                            spec_.least_words < spec_.most_words;
  if (draws_languages && (marks_changes || !spec_.thresholds.empty())) return 0;
  if (draws_groups && marks_changes) return 0;
  return draw_period();
}

std::int64_t Stream::target_period() const noexcept {
  // Inserted tokens and masked first tokens count with what is drawn to stand beside them.
  const bool is_drawn = spec_.mode == Mode::sample ||
                        (spec_.mode == Mode::alternate && spec_.random_order);
  return is_drawn ? 0 : length_period();
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
          key(Domain::words, epoch / period), static_cast<std::uint64_t>(epoch % period)};
}

void Stream::find_places(std::int64_t index, std::span<Place> places) const {
  for (std::size_t j = 0; j < places.size(); ++j) {
    const auto document = spec_.documents.empty() ? index : spec_.documents[j][index];
    places[j] = corpus_->views[spec_.views[j]].locate(document);
  }
}

void Stream::lengths(const EpochKeys& keys, std::span<const std::int64_t> documents,
                     std::span<std::int64_t> out) const {
  if (!sums_lengths_) {
    for (std::size_t i = 0; i < documents.size(); ++i) {
      out[i] = 0;
      for (const auto& run : lay_out(keys, documents[i])) out[i] += run.length;
    }
    return;
  }
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

std::span<const Run> Stream::lay_out(const EpochKeys& keys, std::int64_t index) const {
  thread_local Document document;
  document.index = index;
  document.keys = keys;
  locate(document);
  open(document);
  expand(document);
  return document.runs;
}

std::int64_t Stream::find_uneven(const TableCache& cache, int threads) const {
  const std::vector<std::int64_t> even{num_documents_};
  if (!divides_sentences() || cache.load("even") == even) return -1;
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
      if (is_uneven(braided(std::span(places).subspan(i * width, width)))) return first + i;
  }
  return -1;
}

bool Stream::is_uneven(std::span<const Place> places) const {
  for (const auto& place : places)
    if (num_sentences(place) != num_sentences(places[0])) return true;
  if (spec_.unit != Unit::words) return false;
  thread_local std::vector<std::int64_t> expected, found;
  count_words(places[0], expected);
  for (const auto& place : places.subspan(1)) {
    count_words(place, found);
    if (found != expected) return true;
  }
  return false;
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
    const auto drawn = bounded(hash, num_braided()) + keys.shift;
    return drawn < num_braided() ? drawn : drawn - num_braided();
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
    if (divides_sentences()) prefetch(&shard->document_sentences[i]);
    if (divides_sentences() && spec_.unit == Unit::words) prefetch(&shard->document_words[i]);
  }
  const auto& [shard, i] = document.places[0];
  if (spec_.mode != Mode::mono) prefetch(&shard->key_hash[i]);
}

void Stream::open(Document& document) const {
  document.parts.resize(document.places.size());
  if (divides_sentences()) check_sentences(braided(document.places));
  for (std::size_t j = 0; j < document.parts.size(); ++j) {
    const auto& [shard, i] = document.places[j];
    auto& part = document.parts[j];
    part.token_bytes = corpus_->views[spec_.views[j]].token_bytes();
    check_range(shard->document_tokens, i, shard->num_tokens);
    part.tokens = shard->tokens + shard->document_tokens[i] * part.token_bytes;
    part.end = shard->tokens + shard->document_tokens[i + 1] * part.token_bytes;
    if (!divides_sentences() || j < spec_.num_given) continue;
    part.sentences = sentence_lengths(document.places[j]);
    prefetch(part.sentences);
    if (spec_.unit != Unit::words) continue;
    const auto words = word_lengths(document.places[j]);
    part.words = words.data();
    part.words_end = words.data() + words.size();
    prefetch(part.words);
  }
}

void Stream::prefetch_tokens(const Document& document) const {
  for (const auto& part : document.parts) prefetch_lines(part.tokens, part.end);
}

void Stream::expand(Document& document) const {
  document.runs.clear();
  document.stretch = Document::kNone;
  if (specials_.bos >= 0) add_special(document, Special::bos, 0);
  for (std::size_t j = 0; j < spec_.num_given; ++j) add_whole(document, j);
  if (!divides_sentences())
    expand_documents(document);
  else if (spec_.unit == Unit::words)
    expand_words(document);
  else if (spec_.mode == Mode::alternate)
    expand_alternate(document);
  else
    expand_sample(document);
  close_stretch(document);
  for (const auto& part : document.parts)
    if (part.tokens != part.end) throw_inconsistent(document.index);
  if (specials_.bos >= 0) document.runs[0].language = document.runs[1].language;
  if (specials_.eos >= 0) add_special(document, Special::eos, document.runs.back().language);
}

// One language, or whole documents in all languages or in a drawn one.
void Stream::expand_documents(Document& document) const {
  const auto first = spec_.num_given;
  if (spec_.mode == Mode::alternate) {
    order_languages(document);
    for (auto j : document.language_order) add_whole(document, j);
    return;
  }
  auto drawn = first;
  if (spec_.mode == Mode::sample) {
    const auto& [shard, i] = document.places[0];
    drawn += draw(document.keys, fold(document.keys.draw, shard->key_hash[i]), 0);
  }
  add_whole(document, drawn);
  for (auto& part : document.parts) part.tokens = part.end;
}

void Stream::expand_alternate(Document& document) const {
  order_languages(document);
  const auto sentences = num_sentences(document.places[spec_.num_given]);
  for (std::int64_t s = 0; s < sentences; ++s)
    for (auto j : document.language_order) {
      auto& part = document.parts[j];
      add_piece(document, j, part.sentences[s]);
      part.tokens += part.sentences[s] * part.token_bytes;
    }
}

void Stream::order_languages(Document& document) const {
  auto& order = document.language_order;
  order.resize(num_braided());
  std::iota(order.begin(), order.end(), spec_.num_given);
  if (!spec_.random_order) return;
  const auto& [shard, i] = document.places[0];
  const auto hash = fold(document.keys.language_order, shard->key_hash[i]);
  for (auto j = order.size() - 1; j > 0; --j)  // Fisher-Yates
    std::swap(order[j], order[bounded(fold(hash, j), j + 1)]);
}

void Stream::expand_sample(Document& document) const {
  const auto& [shard, i] = document.places[0];
  const auto hash = fold(document.keys.draw, shard->key_hash[i]);
  const auto parts = std::span(document.parts).subspan(spec_.num_given);
  const auto sentences = num_sentences(document.places[spec_.num_given]);
  for (std::int64_t s = 0; s < sentences; ++s) {
    const auto j = draw(document.keys, hash, s);
    add_piece(document, spec_.num_given + j, parts[j].sentences[s]);
    for (auto& part : parts) part.tokens += part.sentences[s] * part.token_bytes;
  }
}

void Stream::expand_words(Document& document) const {
  if (spec_.mode == Mode::alternate) order_languages(document);
  const auto& [shard, i] = document.places[0];
  const auto key = shard->key_hash[i];
  const auto sizes = fold(document.keys.words, key), languages = fold(document.keys.draw, key);
  const auto parts = std::span(document.parts).subspan(spec_.num_given);
  const auto sentences = num_sentences(document.places[spec_.num_given]);
  std::array<std::int64_t, kMaxLanguages> left, lengths;
  std::uint64_t group = 0;
  for (std::int64_t s = 0; s < sentences; ++s) {
    for (std::size_t j = 0; j < parts.size(); ++j) left[j] = parts[j].sentences[s];
    for (; left[0] > 0; ++group) {
      const auto range = spec_.most_words - spec_.least_words + 1;
      const auto most = spec_.least_words + (range > 1 ? bounded(fold(sizes, group), range) : 0);
      std::uint64_t words = 0;
      for (lengths[0] = 0; words < most && lengths[0] < left[0]; ++words) {
        if (parts[0].words + words == parts[0].words_end) throw_inconsistent(document.index);
        lengths[0] += parts[0].words[words];
      }
      for (std::size_t j = 0; j < parts.size(); ++j) {
        auto& part = parts[j];
        if (part.words_end - part.words < static_cast<std::ptrdiff_t>(words))
          throw_inconsistent(document.index);
        if (j > 0) lengths[j] = std::accumulate(part.words, part.words + words, std::int64_t{0});
        part.words += words;
        left[j] -= lengths[j];
        if (lengths[j] == 0 || left[j] < 0) throw_inconsistent(document.index);
      }
      add_group(document, group, std::span(lengths).first(parts.size()), languages);
    }
    for (std::size_t j = 0; j < parts.size(); ++j)
      if (left[j] != 0) throw_inconsistent(document.index);
  }
}

// Adds a group of words, as long as `lengths` in the languages, in all of them or in a drawn one.
void Stream::add_group(Document& document, std::uint64_t group,
                       std::span<const std::int64_t> lengths, std::uint64_t hash) const {
  const auto first = spec_.num_given;
  if (spec_.mode == Mode::sample) {
    const auto j = draw(document.keys, hash, static_cast<std::int64_t>(group));
    add_piece(document, first + j, lengths[j]);
  } else {
    for (auto j : document.language_order) add_piece(document, j, lengths[j - first]);
  }
  for (std::size_t j = 0; j < lengths.size(); ++j) {
    auto& part = document.parts[first + j];
    part.tokens += lengths[j] * part.token_bytes;
  }
}

void Stream::add_whole(Document& document, std::size_t j) const {
  auto& part = document.parts[j];
  add_piece(document, j, (part.end - part.tokens) / part.token_bytes);
  part.tokens = part.end;
}

void Stream::add_piece(Document& document, std::size_t j, std::int64_t length) const {
  const auto& part = document.parts[j];
  if (j == document.stretch) {
    auto& last = document.runs.back();
    if (last.tokens + last.length * part.token_bytes == part.tokens) {
      last.length += static_cast<std::uint32_t>(length);
      return;
    }
  } else {
    open_stretch(document, j);
  }
  document.runs.push_back({part.tokens, static_cast<std::uint32_t>(length), language(j),
                           Special::none, counted(j)});
}

void Stream::open_stretch(Document& document, std::size_t j) const {
  const bool is_change = document.stretch != Document::kNone;
  close_stretch(document);
  if (specials_.language_switch >= 0 && is_change)
    add_special(document, Special::language_switch, language(j));
  if (!spec_.templates.empty()) add_fixed(document, spec_.templates[j].before, j);
  document.stretch = j;
}

void Stream::close_stretch(Document& document) const {
  const auto j = document.stretch;
  if (j != Document::kNone && !spec_.templates.empty())
    add_fixed(document, spec_.templates[j].after, j);
}

void Stream::add_fixed(Document& document, const std::vector<std::uint32_t>& ids,
                       std::size_t j) const {
  if (ids.empty()) return;
  document.runs.push_back({reinterpret_cast<const std::byte*>(ids.data()),
                           static_cast<std::uint32_t>(ids.size()), language(j), Special::fixed,
                           counts_as_before(document)});
}

void Stream::add_special(Document& document, Special special, std::uint8_t language) const {
  document.runs.push_back({nullptr, 1, language, special, counts_as_before(document)});
}

}  // namespace tresse
