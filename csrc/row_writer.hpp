#pragma once
// Copies runs of tokens into rows and notes where documents and languages begin.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "stream.hpp"

namespace tresse {

// What a thread found out about its rows; flat, a RowNotes says which part is whose.
struct Notes {
  std::vector<std::int32_t> cuts;        // columns, 0 < column < T, where a document begins
  std::vector<std::int32_t> spans;       // columns where a language begins, the first is 0
  std::vector<std::uint8_t> languages;   // of each span
};

struct RowNotes {
  const Notes* notes = nullptr;
  std::size_t first_cut = 0, num_cuts = 0, first_span = 0, num_spans = 0;
};

// Source is the shards' token type, Out the batch's, which may be wider.
template <class Source, class Out>
class RowWriter {
 public:
  // Rows have `length` + 1 tokens.
  RowWriter(std::int64_t length, Notes& notes) : size_(length + 1), notes_(&notes) {}

  void begin(Out* row) {
    row_ = row;
    column_ = 0;
    begins_at_end_ = false;
    of_row_ = {notes_, notes_->cuts.size(), 0, notes_->spans.size(), 0};
  }

  // Starts with the last token of the previous row, whose label it was.
  void begin_with_last(Out* row) {
    const auto last = row_[size_ - 1];
    begin(row);
    begin_span(language_);
    row_[column_++] = last;
  }

  std::int64_t room() const noexcept { return size_ - column_; }
  // Whether a document begins at the last column, which is a label only.
  bool begins_at_end() const noexcept { return begins_at_end_; }

  void begin_document() {
    if (column_ > 0 && column_ < size_ - 1) notes_->cuts.push_back(static_cast<std::int32_t>(column_));
    begins_at_end_ = column_ == size_ - 1;
  }

  void append(const Run& run, std::int64_t offset, std::int64_t length) {
    if (column_ == 0 || run.language != language_) begin_span(run.language);
    if (run.tokens)
      copy(run.tokens + offset * sizeof(Source), length);
    else
      row_[column_] = static_cast<Out>(run.special);
    column_ += length;
  }

  // Fills what is left of the row; the padding belongs to the last language.
  void pad() {
    begin_document();
    if (column_ == 0) begin_span(0);
    std::fill(row_ + column_, row_ + size_, Out{0});
  }

  RowNotes end() {
    of_row_.num_cuts = notes_->cuts.size() - of_row_.first_cut;
    of_row_.num_spans = notes_->spans.size() - of_row_.first_span;
    return of_row_;
  }

 private:
  void begin_span(std::uint8_t language) {
    language_ = language;
    notes_->spans.push_back(static_cast<std::int32_t>(column_));
    notes_->languages.push_back(language);
  }

  void copy(const std::byte* tokens, std::int64_t length) {
    if constexpr (std::is_same_v<Source, Out>)
      std::memcpy(row_ + column_, tokens, length * sizeof(Out));
    else
      std::copy_n(reinterpret_cast<const Source*>(tokens), length, row_ + column_);
  }

  std::int64_t size_;
  Notes* notes_;
  RowNotes of_row_;
  Out* row_ = nullptr;
  std::int64_t column_ = 0;
  std::uint8_t language_ = 0;
  bool begins_at_end_ = false;
};

}  // namespace tresse
