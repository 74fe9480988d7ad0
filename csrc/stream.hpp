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
// What is alternated or drawn: sentences, groups of words within a sentence, or documents.
enum class Unit { sentence, words, document };

// Tokens that are not of a document: special ones, and the fixed texts of a template.
enum class Special : std::uint8_t { none, eos, bos, language_switch, fixed };
// Ids of the special tokens; -1 for one that the packer does not insert.
struct Specials {
  std::int64_t eos = -1, bos = -1, language_switch = -1;
};

// Ids around each stretch of a language.
struct Template {
  std::vector<std::uint32_t> before, after;
};

struct StreamSpec {
  std::vector<std::uint8_t> views;  // of its languages: indices into CorpusView::views
  Mode mode = Mode::mono;
  bool random_order = false;  // alternate: draw the order of the languages for each document
  // sample: cumulative probabilities times 2^64 without the last; empty for uniform draws.
  std::vector<std::uint64_t> thresholds{};
  // [views] of [n]: document i in each language. One view: empty, for all documents.
  std::vector<std::span<const std::int64_t>> documents{};
  std::uint64_t seed = 0, stage = 0, index = 0;
  std::size_t num_given = 0;  // first views, whose documents stand whole before the others
  Unit unit = Unit::sentence;
  std::uint64_t least_words = 1, most_words = 1;  // in a group
  std::vector<Template> templates{};               // by view, or none
  std::vector<bool> counted{};                     // by view: are its tokens targets? Empty: all
};

// Consecutive tokens of one language: `length` of them at `tokens`, or one special token, or
// `length` fixed ids, uint32 at `tokens`.
struct Run {
  const std::byte* tokens;
  std::uint32_t length;
  std::uint8_t language;
  Special special;
  bool counted;  // as targets
};

// Hash keys that all draws of an epoch share.
struct EpochKeys {
  std::int64_t epoch;
  std::uint64_t draw, language_order, words, shift;
};

// A document on its way into a row. The object is reused for later documents.
struct Document {
  static constexpr auto kNone = static_cast<std::size_t>(-1);
  struct Part {
    const std::byte* tokens;         // of the next sentence or group of words
    const std::byte* end;            // of the document
    const std::uint16_t* sentences;  // lengths
    const std::uint16_t* words;      // lengths, from the next word on
    const std::uint16_t* words_end;
    std::int64_t token_bytes;
  };
  std::int64_t index;     // within the stream
  std::int64_t position;  // in the epoch's order
  EpochKeys keys;
  std::vector<Place> places;  // one per language of the stream
  std::vector<Part> parts;
  std::vector<std::size_t> language_order;  // indices into parts
  std::size_t stretch = kNone;              // part whose stretch of tokens is not at its end
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
  // The same for targets, in streams that do not count all tokens.
  std::int64_t target_period() const noexcept;

  // Returns true if all tokens are targets.
  bool counts_all() const noexcept { return spec_.counted.empty(); }

  // Returns the first document whose languages differ in their number of sentences, or of words in
  // a sentence if these are the units, or -1, which is cached. A stream with such a document must
  // not be packed.
  std::int64_t find_uneven(const TableCache& cache, int threads) const;

  // Returns the order of the documents in an epoch.
  Permutation order(std::int64_t epoch) const noexcept;
  EpochKeys keys(std::int64_t epoch) const noexcept;

  // Writes the lengths of documents in tokens as packed, with special tokens.
  void lengths(const EpochKeys& keys, std::span<const std::int64_t> documents,
               std::span<std::int64_t> out) const;

  // Lays out one document by itself, and returns its runs; valid until the thread's next call.
  std::span<const Run> lay_out(const EpochKeys& keys, std::int64_t document) const;

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
  bool is_uneven(std::span<const Place> places) const;
  bool divides_sentences() const noexcept {
    return spec_.mode != Mode::mono && spec_.unit != Unit::document;
  }
  std::span<const Place> braided(std::span<const Place> places) const noexcept {
    return places.subspan(spec_.num_given);
  }
  std::size_t num_braided() const noexcept { return spec_.views.size() - spec_.num_given; }
  std::int64_t draw_period() const noexcept;
  void find_places(std::int64_t index, std::span<Place> places) const;
  std::int64_t length(const EpochKeys& keys, std::span<const Place> places) const;
  std::int64_t sampled_length(const EpochKeys& keys, std::span<const Place> places) const;
  std::size_t draw(const EpochKeys& keys, std::uint64_t document_hash, std::int64_t sentence) const;
  void order_languages(Document& document) const;
  void expand_documents(Document& document) const;
  void expand_alternate(Document& document) const;
  void expand_sample(Document& document) const;
  void expand_words(Document& document) const;
  void add_group(Document& document, std::uint64_t group, std::span<const std::int64_t> lengths,
                 std::uint64_t hash) const;
  // Adds all tokens of a part, or the next `length` ones.
  void add_whole(Document& document, std::size_t part) const;
  void add_piece(Document& document, std::size_t part, std::int64_t length) const;
  void open_stretch(Document& document, std::size_t part) const;
  void close_stretch(Document& document) const;
  void add_fixed(Document& document, const std::vector<std::uint32_t>& ids, std::size_t part) const;
  bool counted(std::size_t part) const noexcept {
    return spec_.counted.empty() || spec_.counted[part];
  }
  // Tokens that are not of a document count as the one before them.
  bool counts_as_before(const Document& document) const noexcept {
    return document.runs.empty() ? spec_.counted.empty() : document.runs.back().counted;
  }
  std::uint8_t language(std::size_t part) const noexcept {
    return corpus_->views[spec_.views[part]].language();
  }
  void add_special(Document& document, Special special, std::uint8_t language) const;

  const CorpusView* corpus_;
  StreamSpec spec_;
  Specials specials_;
  std::int64_t num_documents_;
  std::int64_t num_separators_;
  bool sums_lengths_;  // lengths follow from those of documents and sentences
};

}  // namespace tresse
