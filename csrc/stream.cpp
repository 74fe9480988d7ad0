#include "stream.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace tresse {
namespace {

constexpr std::size_t kBatch = 64;  // documents whose memory accesses overlap

void prefetch(const void* address) noexcept { __builtin_prefetch(address, 0, 3); }

// One request per cache line, up to where the hardware has noticed and goes on by itself.
void prefetch_lines(const std::byte* begin, std::int64_t bytes) noexcept {
  constexpr std::int64_t kLine = 64, kAhead = 512;
  for (std::int64_t offset = 0; offset < std::min(bytes, kAhead); offset += kLine)
    prefetch(begin + offset);
}

std::int64_t num_sentences(const Place& place) noexcept {
  const auto& offsets = place.shard->document_sentences;
  return offsets[place.document + 1] - offsets[place.document];
}

const std::uint16_t* sentence_lengths(const Place& place) noexcept {
  return place.shard->sentence_lengths.data() + place.shard->document_sentences[place.document];
}

void throw_inconsistent(std::int64_t index) {
  throw std::invalid_argument("document " + std::to_string(index) +
                              " of the stream: its sentence lengths do not add up to its tokens; "
                              "verify the corpus");
}

}  // namespace

Stream::Stream(const CorpusView& corpus, StreamSpec spec, Specials specials)
    : corpus_(&corpus), spec_(std::move(spec)), specials_(specials) {
  const auto width = spec_.languages.size();
  if (width == 0 || (spec_.mode == Mode::mono) != (width == 1))
    throw std::invalid_argument("a mono stream takes one language, the others two or more");
  for (auto language : spec_.languages)
    if (language >= corpus.languages.size())
      throw std::invalid_argument("language index " + std::to_string(language) + " is unknown");
  num_documents_ = spec_.mode == Mode::mono
                       ? corpus.languages[spec_.languages[0]].num_documents()
                       : static_cast<std::int64_t>(spec_.documents.size() / width);
  if (num_documents_ == 0) throw std::invalid_argument("the stream has no documents");
  for (std::size_t i = 0; i < spec_.documents.size(); ++i) {
    const auto& language = corpus.languages[spec_.languages[i % width]];
    if (spec_.documents[i] < 0 || spec_.documents[i] >= language.num_documents())
      throw std::invalid_argument("document " + std::to_string(spec_.documents[i]) +
                                  " of the alignment is not in the corpus");
  }
  num_separators_ = (specials_.bos >= 0) + (specials_.eos >= 0);
}

// Uniform draws are made once per L epochs, in which the languages take turns.
std::int64_t Stream::draw_period() const noexcept {
  const bool uniform = spec_.mode == Mode::sample && spec_.thresholds.empty();
  return uniform ? static_cast<std::int64_t>(spec_.languages.size()) : 1;
}

std::int64_t Stream::length_period() const noexcept {
  const bool varies = !spec_.thresholds.empty() || specials_.language_switch >= 0;
  return spec_.mode == Mode::sample && varies ? 0 : draw_period();
}

Epoch Stream::epoch(std::int64_t number) const {
  const auto key = [&](Domain domain, std::int64_t epoch) {
    return hash_words(spec_.seed, domain, spec_.stage, spec_.index, epoch);
  };
  const auto period = draw_period();
  return {number, Permutation(num_documents_, key(Domain::order, number)),
          key(Domain::draw, number / period), key(Domain::language_order, number),
          static_cast<std::uint64_t>(number % period)};
}

void Stream::find_places(std::int64_t index, std::span<Place> places) const {
  for (std::size_t j = 0; j < places.size(); ++j) {
    const auto document =
        spec_.documents.empty() ? index : spec_.documents[index * places.size() + j];
    places[j] = corpus_->languages[spec_.languages[j]].locate(document);
  }
}

void Stream::lengths(const Epoch& epoch, std::int64_t first, std::span<std::int64_t> out) const {
  const auto width = spec_.languages.size();
  std::array<std::int64_t, kBatch> index;
  std::vector<Place> places(kBatch * width);
  for (; !out.empty(); first += kBatch, out = out.subspan(std::min(kBatch, out.size()))) {
    const auto size = std::min(kBatch, out.size());
    for (std::size_t i = 0; i < size; ++i) {
      index[i] = static_cast<std::int64_t>(epoch.order(first + i));
      if (width > 1) prefetch(&spec_.documents[index[i] * width]);
    }
    for (std::size_t i = 0; i < size; ++i)
      find_places(index[i], {&places[i * width], width});
    for (const auto& [shard, document] : std::span(places).first(size * width)) {
      prefetch(&shard->document_lengths[document]);
      if (width > 1) prefetch(&shard->document_sentences[document]);
    }
    for (const auto& place : std::span(places).first(spec_.mode == Mode::sample ? size * width : 0))
      prefetch(sentence_lengths(place));
    for (std::size_t i = 0; i < size; ++i) out[i] = length(epoch, {&places[i * width], width});
  }
}

std::int64_t Stream::length(const Epoch& epoch, std::span<const Place> places) const {
  std::int64_t sum = 0;
  for (const auto& [shard, document] : places) {
    if (shard->document_lengths[document] == 0)
      throw std::invalid_argument("document " + std::to_string(document) +
                                  " of a shard is empty; verify the corpus");
    sum += shard->document_lengths[document];
  }
  if (spec_.mode == Mode::sample) sum = sampled_length(epoch, places);
  if (spec_.mode == Mode::alternate && specials_.language_switch >= 0)
    sum += num_sentences(places[0]) * static_cast<std::int64_t>(places.size()) - 1;
  return sum + num_separators_;
}

std::int64_t Stream::sampled_length(const Epoch& epoch, std::span<const Place> places) const {
  const auto& [shard, document] = places[0];
  const auto hash = fold(epoch.draw_key, shard->key_hash[document]);
  const auto sentences = num_sentences(places[0]);
  std::int64_t sum = 0;
  std::size_t previous = places.size();
  for (std::int64_t s = 0; s < sentences; ++s) {
    const auto j = draw(epoch, hash, s);
    sum += sentence_lengths(places[j])[s];
    sum += specials_.language_switch >= 0 && s > 0 && j != previous;
    previous = j;
  }
  return sum;
}

std::size_t Stream::draw(const Epoch& epoch, std::uint64_t document_hash,
                         std::int64_t sentence) const {
  const auto hash = fold(document_hash, static_cast<std::uint64_t>(sentence));
  if (spec_.thresholds.empty()) {
    const auto drawn = bounded(hash, spec_.languages.size()) + epoch.shift;
    return drawn < spec_.languages.size() ? drawn : drawn - spec_.languages.size();
  }
  std::size_t language = 0;
  for (auto threshold : spec_.thresholds) language += hash >= threshold;
  return language;
}

void Stream::find(const Epoch& epoch, std::int64_t position, Document& document) const {
  document.index = static_cast<std::int64_t>(epoch.order(position));
  if (spec_.mode != Mode::mono)
    prefetch(&spec_.documents[document.index * spec_.languages.size()]);
}

void Stream::locate(Document& document) const {
  document.places.resize(spec_.languages.size());
  find_places(document.index, document.places);
  for (const auto& [shard, i] : document.places) {
    prefetch(&shard->document_tokens[i]);
    if (spec_.mode != Mode::mono) prefetch(&shard->document_sentences[i]);
  }
  const auto& [shard, i] = document.places[0];
  if (spec_.mode != Mode::mono) prefetch(&shard->key_hash[i]);
}

void Stream::open(Document& document) const {
  document.parts.clear();
  for (const auto& place : document.places) {
    const auto& [shard, i] = place;
    document.parts.push_back({shard->document_tokens[i], shard->document_tokens[i + 1], nullptr});
    auto& part = document.parts.back();
    prefetch_lines(shard->tokens + part.next * token_bytes(),
                   (part.end - part.next) * token_bytes());
    if (spec_.mode == Mode::mono) continue;
    part.sentences = sentence_lengths(place);
    prefetch(part.sentences);
  }
}

void Stream::expand(const Epoch& epoch, Document& document) const {
  document.runs.clear();
  if (specials_.bos >= 0) add_special(document, specials_.bos, 0);
  if (spec_.mode == Mode::mono)
    add_sentence(document, 0, document.parts[0].end - document.parts[0].next);
  if (spec_.mode == Mode::alternate) expand_alternate(epoch, document);
  if (spec_.mode == Mode::sample) expand_sample(epoch, document);
  if (specials_.bos >= 0) document.runs[0].language = document.runs[1].language;
  if (specials_.eos >= 0) add_special(document, specials_.eos, document.runs.back().language);
}

void Stream::expand_alternate(const Epoch& epoch, Document& document) const {
  order_languages(epoch, document);
  const auto sentences = num_sentences(document.places[0]);
  for (std::int64_t s = 0; s < sentences; ++s)
    for (auto j : document.language_order)
      add_sentence(document, j, document.parts[j].sentences[s]);
  for (const auto& part : document.parts)
    if (part.next != part.end) throw_inconsistent(document.index);
}

void Stream::order_languages(const Epoch& epoch, Document& document) const {
  auto& order = document.language_order;
  order.resize(document.parts.size());
  std::iota(order.begin(), order.end(), 0);
  if (!spec_.random_order) return;
  const auto& [shard, i] = document.places[0];
  const auto hash = fold(epoch.language_order_key, shard->key_hash[i]);
  for (auto j = order.size() - 1; j > 0; --j)  // Fisher-Yates
    std::swap(order[j], order[bounded(fold(hash, j), j + 1)]);
}

void Stream::expand_sample(const Epoch& epoch, Document& document) const {
  const auto& [shard, i] = document.places[0];
  const auto hash = fold(epoch.draw_key, shard->key_hash[i]);
  const auto sentences = num_sentences(document.places[0]);
  for (std::int64_t s = 0; s < sentences; ++s) {
    const auto drawn = draw(epoch, hash, s);
    for (std::size_t j = 0; j < document.parts.size(); ++j) {
      auto& part = document.parts[j];
      if (j == drawn)
        add_sentence(document, j, part.sentences[s]);
      else
        part.next += part.sentences[s];
    }
  }
  for (const auto& part : document.parts)
    if (part.next != part.end) throw_inconsistent(document.index);
}

void Stream::add_sentence(Document& document, std::size_t j, std::int64_t length) const {
  const auto language = spec_.languages[j];
  auto& runs = document.runs;
  const bool switches = specials_.language_switch >= 0 && !runs.empty() && runs.back().tokens &&
                        runs.back().language != language;
  if (switches) add_special(document, specials_.language_switch, language);
  auto& part = document.parts[j];
  const auto* tokens = document.places[j].shard->tokens + part.next * token_bytes();
  prefetch(tokens);
  runs.push_back({tokens, static_cast<std::uint32_t>(length), 0, language});
  part.next += length;
}

void Stream::add_special(Document& document, std::int64_t id, std::uint8_t language) const {
  document.runs.push_back({nullptr, 1, static_cast<std::uint32_t>(id), language});
}

}  // namespace tresse
