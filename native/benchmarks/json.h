// Just enough JSON for numbers with names.
#ifndef SATRAP_BENCHMARKS_JSON_H_
#define SATRAP_BENCHMARKS_JSON_H_

#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

namespace satrap::benchmarks {

// An object, built field by field in order. Names need no escaping.
class Json {
 public:
  Json& add(const std::string& name, double value) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.9g", value);
    return add_text(name, text);
  }
  Json& add(const std::string& name, std::size_t value) { return add_text(name, std::to_string(value)); }
  Json& add(const std::string& name, bool value) { return add_text(name, value ? "true" : "false"); }
  Json& add(const std::string& name, const Json& value) { return add_text(name, value.text()); }
  Json& add(const std::string& name, const std::vector<double>& values) {
    std::string list;
    for (const double value : values) {
      char text[32];
      std::snprintf(text, sizeof(text), "%.6g", value);
      list += (list.empty() ? "" : ", ") + std::string(text);
    }
    return add_text(name, "[" + list + "]");
  }

  std::string text() const { return "{" + fields_ + "}"; }
  void print() const { std::printf("%s\n", text().c_str()); }

 private:
  Json& add_text(const std::string& name, const std::string& value) {
    fields_ += (fields_.empty() ? "\"" : ", \"") + name + "\": " + value;
    return *this;
  }

  std::string fields_;
};

}  // namespace satrap::benchmarks

#endif  // SATRAP_BENCHMARKS_JSON_H_
