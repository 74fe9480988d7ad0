#pragma once
// Caches tables of numbers in files for the next run. The files may be removed at any time: a table
// whose file is missing, cut short, damaged or of another byte order is built and stored again.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tresse {

class TableCache {
 public:
  // Files are named {prefix}{name}.table; an empty prefix switches the cache off.
  explicit TableCache(std::string prefix) : prefix_(std::move(prefix)) {}

  // Returns the table, or nothing if no sound file holds it.
  std::vector<std::int64_t> load(std::string_view name) const;
  // Writes the table whole or not at all. A failure is silent: the next run builds the table again.
  void store(std::string_view name, std::span<const std::int64_t> table) const;

 private:
  std::string path(std::string_view name) const;

  std::string prefix_;
};

}  // namespace tresse
