#pragma once
// A stream: documents in a new order every epoch, each turned into runs of tokens by the stream's mode.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "corpus_view.hpp"
#include "random.hpp"

namespace tresse {

enum class Mode { mono, alternate, sample };

// Ids of the tokens that the packer inserts; -1 where it does not.
struct Specials {
  std::int64_t eos = -1, bos = -1, language_switch = -1;
};

struct StreamSpec {
  std::vector<std::uint8_t> languages;  // indices into CorpusView::languages
  Mode mode = Mode::mono;
  bool random_order = false;              // alternate: the languages' order is drawn per document
  std::vector<std::uint64_t> thresholds;  // sample: cumulative probabilities * 2^64; empty is uniform
  std::span<const std::int64_t> documents;  // [n, languages] row-major; empty: all of one language
  std::uint64_t seed = 0, stage = 0, index = 0;
};

// Consecutive tokens of one language: `length` at `tokens`, or one inserted token where that is null.
struct Run {
  const std::byte* tokens;
  std::uint32_t length;
  std::uint32_t special;
  std::uint8_t language;
};

// What the draws of one epoch have in common.
struct Epoch {
  std::int64_t number;
  Permutation order;
  std::uint64_t draw_key, language_order_key, shift;
};

// A document on its way into a row, reused for the next one.
struct Document {
  struct Part {
    std::int64_t next, end;          // tokens not yet in a run, offsets within the shard
    const std::uint16_t* sentences;  // lengths
  };
  std::int64_t index;  // within the stream
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
  int token_bytes() const noexcept { return corpus_->token_bytes; }

  // Number of epochs after which lengths have the same sum again: 1 where lengths are constant, L
  // where L languages take turns, 0 where there is no such number.
  std::int64_t length_period() const noexcept;

  Epoch epoch(std::int64_t number) const;

  // Lengths, in tokens as packed, of the documents at `first`, `first + 1`, ... of the epoch's order.
  void lengths(const Epoch& epoch, std::int64_t first, std::span<std::int64_t> out) const;

  // The steps from a position to runs. Each prefetches what the next one reads, so that a caller who
  // takes several documents through them side by side waits for memory once rather than four times.
  void find(const Epoch& epoch, std::int64_t position, Document& document) const;
  void locate(Document& document) const;
  void open(Document& document) const;
  void expand(const Epoch& epoch, Document& document) const;

 private:
  std::int64_t draw_period() const noexcept;
  void find_places(std::int64_t index, std::span<Place> places) const;
  std::int64_t length(const Epoch& epoch, std::span<const Place> places) const;
  std::int64_t sampled_length(const Epoch& epoch, std::span<const Place> places) const;
  std::size_t draw(const Epoch& epoch, std::uint64_t document_hash, std::int64_t sentence) const;
  void order_languages(const Epoch& epoch, Document& document) const;
  void expand_alternate(const Epoch& epoch, Document& document) const;
  void expand_sample(const Epoch& epoch, Document& document) const;
  void add_sentence(Document& document, std::size_t part, std::int64_t length) const;
  void add_special(Document& document, std::int64_t id, std::uint8_t language) const;

  const CorpusView* corpus_;
  StreamSpec spec_;
  Specials specials_;
  std::int64_t num_documents_;
  std::int64_t num_separators_;
};

}  // namespace tresse
