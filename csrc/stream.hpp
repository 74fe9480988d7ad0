#pragma once
// A stream: documents in a new order every epoch, each turned into runs of tokens as the stream's
// mode says.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "corpus_view.hpp"
#include "random.hpp"
#include "table_cache.hpp"

namespace tresse {

enum class Mode { mono, alternate, sample };

// Special tokens, and their ids; -1 for one that the packer does not insert.
enum class Special : std::uint8_t { none, eos, bos, language_switch };
struct Specials {
  std::int64_t eos = -1, bos = -1, language_switch = -1;
};

struct StreamSpec {
  std::vector<std::uint8_t> views;  // of its languages: indices into CorpusView::views
  Mode mode = Mode::mono;
  bool random_order = false;  // alternate: draw the order of the languages for each document
  // sample: cumulative probabilities times 2^64 without the last; empty for uniform draws.
  std::vector<std::uint64_t> thresholds{};
  // [views] of [n]: document i in each language. mono: empty, for all documents.
  std::vector<std::span<const std::int64_t>> documents{};
  std::uint64_t seed = 0, stage = 0, index = 0;
};

// Consecutive tokens of one language: `length` of them at `tokens`, or one special token.
struct Run {
  const std::byte* tokens;
  std::uint32_t length;
  std::uint8_t language;
  Special special;
};

// Hash keys that all draws of an epoch share.
struct EpochKeys {
  std::int64_t epoch;
  std::uint64_t draw, language_order, shift;
};

// A document on its way into a row. The object is reused for later documents.
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

  // Returns the number of epochs after which document lengths add up to the same sum again: 1 if
  // lengths are constant, L if L languages take turns, 0 if there is no such number.
  std::int64_t length_period() const noexcept;

  // Returns the first document whose languages differ in their number of sentences, or -1, which is
  // cached. A stream with such a document must not be packed: it would read beyond sentences.
  std::int64_t find_uneven(const TableCache& cache, int threads) const;

  // Returns the order of the documents in an epoch.
  Permutation order(std::int64_t epoch) const noexcept;
  EpochKeys keys(std::int64_t epoch) const noexcept;

  // Writes the lengths of documents in tokens as packed, with special tokens.
  void lengths(const EpochKeys& keys, std::span<const std::int64_t> documents,
               std::span<std::int64_t> out) const;

  // Four steps from a document's index and keys to its runs. Each step prefetches the memory that
  // the next one reads, so a caller that takes several documents through the steps side by side
  // waits for memory once instead of four times.
  void find(const Document& document) const;
  void locate(Document& document) const;
  void open(Document& document) const;
  void prefetch_tokens(const Document& document) const;  // after open, if tokens will be read
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
  std::uint8_t language(std::size_t part) const noexcept {
    return corpus_->views[spec_.views[part]].language();
  }
  void add_special(Document& document, Special special, std::uint8_t language) const;

  const CorpusView* corpus_;
  StreamSpec spec_;
  Specials specials_;
  std::int64_t num_documents_;
  std::int64_t num_separators_;
};

}  // namespace tresse
