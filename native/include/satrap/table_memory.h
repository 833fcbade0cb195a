// Where a table's files and mappings come from: a folder (tmpfs, usually), or private memory.
#ifndef SATRAP_TABLE_MEMORY_H_
#define SATRAP_TABLE_MEMORY_H_

#include <sys/types.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace satrap {

// A file of a table is damaged, foreign, or of another version; what() names it and says why.
struct TableError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// There is no memory, no room in the folder, or no descriptor left; what() says how much was wanted and what
// to do.
struct TableSpaceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Mapped bytes; unmapped with their owner.
class Mapping {
 public:
  Mapping() = default;
  Mapping(void* data, std::size_t bytes) : data_(static_cast<std::byte*>(data)), bytes_(bytes) {}
  ~Mapping();
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_), huge_(other.huge_) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(huge_, other.huge_);
    return *this;
  }

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  // Whether its whole 2 MiB pieces (there is one at least) were huge pages when it was made.
  bool is_huge() const { return huge_; }
  void set_huge(bool huge) { huge_ = huge; }

  // Makes the page tables now, so that no later access has to: for reading, or for writing. Advice: never
  // fails.
  void populate_for_reading() const;
  void populate_for_writing() const;

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  bool huge_ = false;
};

// A flat set of named files. Threads: create and open from any thread at once.
class TableMemory {
 public:
  virtual ~TableMemory() = default;

  // A new file of zeros, every page of it allocated and mapped for writing. Throws TableSpaceError.
  virtual Mapping create(const std::string& name, std::size_t bytes) = 0;
  // The file's present bytes, mapped (read-only where this memory is); nothing if there is no such file.
  // Throws TableError, TableSpaceError.
  virtual std::optional<Mapping> open(const std::string& name) = 0;
  virtual void rename(const std::string& from, const std::string& to) = 0;
  virtual void remove(const std::string& name) = 0;  // no error if there is none
  virtual std::vector<std::string> names() const = 0;
  // For error messages: "FOLDER/NAME".
  virtual std::string describe(const std::string& name) const = 0;
};

struct FileModes {
  mode_t file = 0600;
  mode_t folder = 0700;
  std::optional<gid_t> group;
};

// Memory of this process alone, without names: what is created cannot be opened again, and goes with its
// mapping.
std::unique_ptr<TableMemory> private_memory();
// A folder, which is made if it is missing. Throws TableSpaceError, TableError.
std::unique_ptr<TableMemory> folder_memory(std::string path, FileModes modes = {});
// A folder that another process writes: open() maps read-only, everything that would change it throws.
std::unique_ptr<TableMemory> read_only_folder_memory(std::string path);

// Bytes that may still be taken: the least of MemAvailable and what the cgroups leave.
std::size_t available_memory();

}  // namespace satrap

#endif  // SATRAP_TABLE_MEMORY_H_
