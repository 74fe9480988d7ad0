#pragma once
// A stream: documents in a new order every epoch, each turned into runs of tokens by the stream's
// mode.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "corpus_view.hpp"
#include "table_cache.hpp"
#include "random.hpp"

namespace tresse {

enum class Mode { mono, alternate, sample };

// Tokens that the packer inserts, and their ids; -1 where it does not.
enum class Special : std::uint8_t { none, eos, bos, language_switch };
struct Specials {
  std::int64_t eos = -1, bos = -1, language_switch = -1;
};

struct StreamSpec {
  std::vector<std::uint8_t> languages;  // indices into CorpusView::languages
  Mode mode = Mode::mono;
  bool random_order = false;  // alternate: the languages' order is drawn per document
  // sample: cumulative probabilities times 2^64, less the last; empty is uniform.
  std::vector<std::uint64_t> thresholds{};
  // [languages] of [n]: document i in each language. Empty: all documents of the one language.
  std::vector<std::span<const std::int64_t>> documents{};
  std::uint64_t seed = 0, stage = 0, index = 0;
};

// Consecutive tokens of one language: `length` at `tokens`, or one special token.
struct Run {
  const std::byte* tokens;
  std::uint32_t length;
  std::uint8_t language;
  Special special;
};

// What the draws of one epoch have in common.
struct EpochKeys {
  std::int64_t epoch;
  std::uint64_t draw, language_order, shift;
};

// A document on its way into a row, reused for the next one.
struct Document {
  struct Part {
    const std::byte* tokens;         // of the next sentence
    const std::byte* end;            // of the document
    const std::uint16_t* sentences;  // lengths
  };
  std::int64_t index;     // within the stream
  std::int64_t position;  // in the epoch's order
  EpochKeys keys;
  std::vector<Place> places;  // one per language of the stream
  std::vector<Part> parts;
  std::vector<std::size_t> language_order;  // indices into parts
  std::vector<Run> runs;
};

class Stream {
 public:
  Stream(const CorpusView& corpus, StreamSpec spec, Specials specials);

  const StreamSpec& spec() const noexcept { return spec_; }
  std::int64_t num_documents() const noexcept { return num_documents_; }

  // Number of epochs after which lengths have the same sum again: 1 where lengths are constant, L
  // where L languages take turns, 0 where there is no such number.
  std::int64_t length_period() const noexcept;

  // The first document whose languages differ in their number of sentences, or -1, which is kept. A
  // stream with one must not be packed: it would read beyond sentences.
  std::int64_t find_uneven(const TableCache& kept, int threads) const;

  // The order of the documents in an epoch.
  Permutation order(std::int64_t epoch) const noexcept;
  EpochKeys keys(std::int64_t epoch) const noexcept;

  // Lengths in tokens as packed, separators included.
  void lengths(const EpochKeys& keys, std::span<const std::int64_t> documents,
               std::span<std::int64_t> out) const;

  // The steps from a document's index and keys to its runs. Each prefetches what the next one
  // reads, so that a caller who takes several documents through them side by side waits for memory
  // once rather than four times.
  void find(const Document& document) const;
  void locate(Document& document) const;
  void open(Document& document) const;
  void prefetch_tokens(const Document& document) const;  // once open, if they will be read
  void expand(Document& document) const;

 private:
  std::int64_t find_uneven(std::int64_t begin, std::int64_t end) const;
  std::int64_t draw_period() const noexcept;
  void find_places(std::int64_t index, std::span<Place> places) const;
  std::int64_t length(const EpochKeys& keys, std::span<const Place> places) const;
  std::int64_t sampled_length(const EpochKeys& keys, std::span<const Place> places) const;
  std::size_t draw(const EpochKeys& keys, std::uint64_t document_hash, std::int64_t sentence) const;
  void order_languages(Document& document) const;
  void expand_mono(Document& document) const;
  void expand_alternate(Document& document) const;
  void expand_sample(Document& document) const;
  void add_sentence(Document& document, std::size_t part, std::int64_t sentence) const;
  void add_special(Document& document, Special special, std::uint8_t language) const;

  const CorpusView* corpus_;
  StreamSpec spec_;
  Specials specials_;
  std::int64_t num_documents_;
  std::int64_t num_separators_;
};

}  // namespace tresse
