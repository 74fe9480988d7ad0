#pragma once
// Tables of numbers kept in files for the next run. They are disposable: a file that is missing,
// cut short, damaged or of another byte order gives nothing, and is written anew.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tresse {

class TableCache {
 public:
  // Files are {prefix}{name}.table; with an empty prefix nothing is kept.
  explicit TableCache(std::string prefix) : prefix_(std::move(prefix)) {}

  // Empty if there is none.
  std::vector<std::int64_t> load(std::string_view name) const;
  // Whole or not at all. Nothing is said if it fails: then the next run builds the table again.
  void store(std::string_view name, std::span<const std::int64_t> table) const;

 private:
  std::string path(std::string_view name) const;

  std::string prefix_;
};

}  // namespace tresse
