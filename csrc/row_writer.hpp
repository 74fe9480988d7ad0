#pragma once
// Copies runs of tokens into rows and notes where documents and languages begin.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "stream.hpp"

namespace tresse {

// A column where a language begins.
struct LanguageSpan {
  std::int32_t column;
  std::uint8_t language;
};

// What a thread found out about its rows.
struct Notes {
  std::vector<std::int32_t> cuts;  // columns, 0 < column < T, where a document or padding begins
  std::vector<LanguageSpan> spans;
};

// The notes of one row.
struct RowNotes {
  const Notes* notes = nullptr;
  std::size_t first_cut = 0, num_cuts = 0, first_span = 0, num_spans = 0;
};

// What is left of a document's runs.
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

  // Passes over up to `tokens` tokens of the current run; returns how many.
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

  void skip(std::int64_t tokens) noexcept {
    while (tokens > 0) tokens -= take(tokens);
  }

  // Tokens of the document that were passed.
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

// Source is the shards' token type, Out the batch's, which may be wider.
template <class Source, class Out>
class RowWriter {
 public:
  // Rows have `length` + 1 tokens.
  RowWriter(std::int64_t length, const Specials& specials, Notes& notes)
      : size_(length + 1),
        specials_{0, static_cast<Out>(specials.eos), static_cast<Out>(specials.bos),
                  static_cast<Out>(specials.language_switch)},
        notes_(&notes) {}

  void begin(Out* row) {
    row_ = row;
    column_ = 0;
    language_ = kNoLanguage;
    begins_at_end_ = false;
    of_row_ = {notes_, notes_->cuts.size(), 0, notes_->spans.size(), 0};
  }

  // Starts with the last token of the previous row, which was only a label there.
  void begin_with_last(Out* row) {
    const auto last = row_[size_ - 1];
    const auto language = language_;
    begin(row);
    set_language(language);
    row_[column_++] = last;
  }

  std::int64_t room() const noexcept { return size_ - column_; }
  // Whether a document begins at the last column.
  bool begins_at_end() const noexcept { return begins_at_end_; }

  void begin_document() {
    begins_at_end_ = column_ == size_ - 1;
    if (column_ > 0 && !begins_at_end_) notes_->cuts.push_back(static_cast<std::int32_t>(column_));
  }

  // Up to `tokens` of what the reader has left.
  void write(RunReader& reader, std::int64_t tokens) {
    while (tokens > 0 && !reader.done()) {
      const auto& run = reader.run();
      const auto* source = run.tokens + reader.offset() * sizeof(Source);
      const auto taken = reader.take(tokens);
      set_language(run.language);
      if (run.special == Special::none)
        copy(source, taken);
      else
        row_[column_] = specials_[static_cast<std::size_t>(run.special)];
      column_ += taken;
      tokens -= taken;
    }
  }

  // Fills what is left of the row; the padding belongs to the last language, or to the first of
  // all.
  void pad() {
    begin_document();
    if (column_ == 0) set_language(0);
    std::fill(row_ + column_, row_ + size_, Out{0});
  }

  RowNotes end() {
    of_row_.num_cuts = notes_->cuts.size() - of_row_.first_cut;
    of_row_.num_spans = notes_->spans.size() - of_row_.first_span;
    return of_row_;
  }

 private:
  static constexpr std::uint8_t kNoLanguage = kMaxLanguages;

  void set_language(std::uint8_t language) {
    if (language == language_) return;
    language_ = language;
    notes_->spans.push_back({static_cast<std::int32_t>(column_), language});
  }

  void copy(const std::byte* tokens, std::int64_t length) {
    if constexpr (std::is_same_v<Source, Out>)
      std::memcpy(row_ + column_, tokens, length * sizeof(Out));
    else
      std::copy_n(reinterpret_cast<const Source*>(tokens), length, row_ + column_);
  }

  std::int64_t size_;
  std::array<Out, 4> specials_;  // by Special
  Notes* notes_;
  RowNotes of_row_;
  Out* row_ = nullptr;
  std::int64_t column_ = 0;
  std::uint8_t language_ = kNoLanguage;
  bool begins_at_end_ = false;
};

}  // namespace tresse
