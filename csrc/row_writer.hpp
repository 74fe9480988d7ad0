#pragma once
// Turns runs of tokens into rows, and notes the columns where documents and languages begin. The
// writer's sink takes the tokens: Copier copies them, Locator notes their places.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "corpus_view.hpp"
#include "stream.hpp"

namespace tresse {

// Consecutive tokens of the pool that fill a row from `column` to the column of the next copy. A
// negative source stands for the token -1 - source, special or padding, repeated to fill the gap.
struct Copy {
  std::int64_t source;
  std::int32_t column;
  std::uint8_t language;
  bool counted;  // its tokens are targets
  bool begins;   // a document or padding begins here, at a column > 0
};

// The column where a language begins, or where tokens begin or cease to be targets.
struct LanguageSpan {
  std::int32_t column;
  std::uint8_t language;
  bool counted;
};

// The ids of a run of fixed tokens.
inline const std::uint32_t* fixed_ids(const Run& run) noexcept {
  return reinterpret_cast<const std::uint32_t*>(run.tokens);
}

// The notes of a thread about its rows.
struct Notes {
  std::vector<std::int32_t> cuts;  // columns (0 < column < T) where a document or padding begins
  std::vector<LanguageSpan> spans;
  std::vector<Copy> copies;  // only from Locator
};

// The notes of one row.
struct RowNotes {
  const Notes* notes = nullptr;
  std::size_t first_cut = 0, num_cuts = 0, first_span = 0, num_spans = 0;
  std::size_t first_copy = 0, num_copies = 0;
};

// Reads the runs of a document, one after the other.
class RunReader {
 public:
  void open(const Document& document) {
    document_ = &document;
    runs_ = document.runs;
    offset_ = 0;
  }
  const Document& document() const noexcept { return *document_; }
  bool done() const noexcept { return runs_.empty(); }
  const Run& run() const noexcept { return runs_.front(); }
  std::int64_t offset() const noexcept { return offset_; }

  // Passes over at most `tokens` tokens of the current run, and returns their number.
  std::int64_t take(std::int64_t tokens) noexcept {
    const auto left = run().length - offset_;
    if (tokens < left) {
      offset_ += tokens;
      return tokens;
    }
    runs_ = runs_.subspan(1);
    offset_ = 0;
    return left;
  }

  void skip(std::int64_t tokens) {
    while (tokens > 0) {
      if (done()) throw_contradiction("a document is shorter than its length");
      tokens -= take(tokens);
    }
  }

  // Returns the number of tokens of the document that were passed.
  std::int64_t passed() const noexcept {
    auto tokens = offset_;
    for (const auto& run : std::span(document_->runs).first(document_->runs.size() - runs_.size()))
      tokens += run.length;
    return tokens;
  }

 private:
  const Document* document_ = nullptr;
  std::span<const Run> runs_;
  std::int64_t offset_ = 0;
};

// Copies tokens that are the same in shards and batch: Source is their type in the shards, Out that
// in the batch, which may be wider.
template <class Source, class Out>
struct SameTokens {
  using Token = Out;

  void operator()(Out* out, const Run& run, std::int64_t offset, std::int64_t length) const {
    const auto* tokens = run.tokens + offset * sizeof(Source);
    if constexpr (std::is_same_v<Source, Out>)
      std::memcpy(out, tokens, length * sizeof(Out));
    else
      std::copy_n(reinterpret_cast<const Source*>(tokens), length, out);
  }
};

// Copies tokens of languages that have a part of the ids each.
template <class Out>
class JoinedTokens {
 public:
  using Token = Out;

  explicit JoinedTokens(const CorpusView& corpus) {
    for (const auto& view : corpus.views)
      parts_[view.language()] = {view.token_bytes(), view.first_id()};
  }

  void operator()(Out* out, const Run& run, std::int64_t offset, std::int64_t length) const {
    const auto [token_bytes, first_id] = parts_[run.language];
    const auto* tokens = run.tokens + offset * token_bytes;
    if (token_bytes == 2)
      add(out, reinterpret_cast<const std::uint16_t*>(tokens), length, first_id);
    else
      add(out, reinterpret_cast<const std::uint32_t*>(tokens), length, first_id);
  }

 private:
  struct Part {
    std::int64_t token_bytes = 2;
    std::uint32_t first_id = 0;
  };

  template <class Source>
  static void add(Out* out, const Source* tokens, std::int64_t length, std::uint32_t first_id) {
    for (std::int64_t i = 0; i < length; ++i) out[i] = static_cast<Out>(tokens[i] + first_id);
  }

  std::array<Part, kMaxLanguages> parts_;  // by language
};

// Copies tokens into the rows of a batch, of `size` tokens each. Copy copies those of documents.
template <class Copy>
class Copier {
 public:
  using Out = typename Copy::Token;
  static constexpr bool kReadsTokens = true;

  Copier(std::byte* rows, std::int64_t size, const Specials& specials, const Copy& copy)
      : rows_(reinterpret_cast<Out*>(rows)),
        size_(size),
        specials_{0, static_cast<Out>(specials.eos), static_cast<Out>(specials.bos),
                  static_cast<Out>(specials.language_switch)},
        copy_(copy) {}

  void begin(std::int64_t slot) { row_ = rows_ + slot * size_; }

  void begin_with_last(std::int64_t slot) {
    const auto last = row_[size_ - 1];
    begin(slot);
    row_[0] = last;
  }

  void begin_document() noexcept {}

  // Writes `length` tokens of a run, starting at its `offset`.
  void write(std::int64_t column, const Run& run, std::int64_t offset, std::int64_t length) {
    if (run.special == Special::none)
      copy_(row_ + column, run, offset, length);
    else if (run.special == Special::fixed)
      std::copy_n(fixed_ids(run) + offset, length, row_ + column);
    else
      row_[column] = specials_[static_cast<std::size_t>(run.special)];
  }

  void pad(std::int64_t column, std::uint8_t, bool) {
    std::fill(row_ + column, row_ + size_, Out{0});
  }

 private:
  Out* rows_;
  std::int64_t size_;
  std::array<Out, 4> specials_;  // by Special
  Copy copy_;
  Out* row_ = nullptr;
};

// Notes the places of tokens in the pool without reading the tokens.
class Locator {
 public:
  static constexpr bool kReadsTokens = false;

  Locator(const Pool& pool, std::int64_t size, const Specials& specials, Notes& notes)
      : pool_(&pool),
        size_(size),
        specials_{0, specials.eos, specials.bos, specials.language_switch},
        copies_(&notes.copies) {}

  void begin(std::int64_t) {
    row_ = copies_->size();
    begins_ = false;
  }

  void begin_with_last(std::int64_t slot) {
    const auto& last = copies_->back();
    const auto skipped = last.source < 0 ? 0 : size_ - 1 - last.column;
    const Copy copy{last.source + skipped, 0, last.language, last.counted, false};
    begin(slot);
    copies_->push_back(copy);
  }

  void begin_document() noexcept { begins_ = true; }

  void write(std::int64_t column, const Run& run, std::int64_t offset, std::int64_t length) {
    if (run.special == Special::fixed) {
      for (std::int64_t i = 0; i < length; ++i)
        note(column + i, literal(fixed_ids(run)[offset + i]), run.language, run.counted);
    } else if (run.special != Special::none) {
      const auto id = specials_[static_cast<std::size_t>(run.special)];
      note(column, literal(id), run.language, run.counted);
    } else if (length > 0) {
      const auto source = pool_->offset(run.tokens) + offset;
      if (!extends(column, source, run)) note(column, source, run.language, run.counted);
    }
  }

  void pad(std::int64_t column, std::uint8_t language, bool counted) {
    note(column, literal(0), language, counted);
  }

 private:
  static std::int64_t literal(std::int64_t token) noexcept { return -1 - token; }

  // Returns true if the tokens follow those of the row's last copy in the pool, too.
  bool extends(std::int64_t column, std::int64_t source, const Run& run) const {
    if (begins_ || copies_->size() == row_) return false;
    const auto& last = copies_->back();
    return last.source >= 0 && last.source + column - last.column == source &&
           last.language == run.language && last.counted == run.counted;
  }

  void note(std::int64_t column, std::int64_t source, std::uint8_t language, bool counted) {
    copies_->push_back(
        {source, static_cast<std::int32_t>(column), language, counted, begins_ && column > 0});
    begins_ = false;
  }

  const Pool* pool_;
  std::int64_t size_;
  std::array<std::int64_t, 4> specials_;  // by Special
  std::vector<Copy>* copies_;
  std::size_t row_ = 0;  // index of the row's first copy
  bool begins_ = false;  // a document begins with the next copy
};

template <class Sink>
class RowWriter {
 public:
  // Writes rows of `length` + 1 tokens.
  RowWriter(std::int64_t length, const Sink& sink, Notes& notes)
      : size_(length + 1), sink_(sink), notes_(&notes) {}

  void begin(std::int64_t slot) {
    reset();
    sink_.begin(slot);
  }

  // Begins a row with the last token of the row before, which was only a label there.
  void begin_with_last(std::int64_t slot) {
    const auto language = language_;
    const auto counted = counted_;
    reset();
    set_language(language, counted);
    sink_.begin_with_last(slot);
    ++column_;
  }

  std::int64_t room() const noexcept { return size_ - column_; }
  // Returns true if a document begins at the last column.
  bool begins_at_end() const noexcept { return begins_at_end_; }

  void begin_document() {
    begins_at_end_ = column_ == size_ - 1;
    if (column_ > 0 && !begins_at_end_) notes_->cuts.push_back(static_cast<std::int32_t>(column_));
    sink_.begin_document();
  }

  // Writes at most `tokens` tokens from the reader. Returns the number that its document lacked.
  std::int64_t write(RunReader& reader, std::int64_t tokens) {
    while (tokens > 0 && !reader.done()) {
      const auto& run = reader.run();
      const auto offset = reader.offset();
      const auto taken = reader.take(tokens);
      set_language(run.language, run.counted);
      sink_.write(column_, run, offset, taken);
      column_ += taken;
      tokens -= taken;
    }
    return tokens;
  }

  // Fills the rest of the row. Padding has the language before it; an empty row has language 0.
  void pad() {
    begin_document();
    if (column_ == 0) set_language(0, true);
    sink_.pad(column_, language_, counted_);
  }

  RowNotes end() {
    row_notes_.num_cuts = notes_->cuts.size() - row_notes_.first_cut;
    row_notes_.num_spans = notes_->spans.size() - row_notes_.first_span;
    row_notes_.num_copies = notes_->copies.size() - row_notes_.first_copy;
    return row_notes_;
  }

 private:
  static constexpr std::uint8_t kNoLanguage = kMaxLanguages;

  void reset() {
    column_ = 0;
    language_ = kNoLanguage;
    begins_at_end_ = false;
    row_notes_ = {notes_, notes_->cuts.size(),   0, notes_->spans.size(),
                  0,      notes_->copies.size(), 0};
  }

  void set_language(std::uint8_t language, bool counted) {
    if (language == language_ && counted == counted_) return;
    language_ = language;
    counted_ = counted;
    notes_->spans.push_back({static_cast<std::int32_t>(column_), language, counted});
  }

  std::int64_t size_;
  Sink sink_;
  Notes* notes_;
  RowNotes row_notes_;
  std::int64_t column_ = 0;
  std::uint8_t language_ = kNoLanguage;
  bool counted_ = true;
  bool begins_at_end_ = false;
};

}  // namespace tresse
