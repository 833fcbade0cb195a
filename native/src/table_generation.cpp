#include "satrap/table_generation.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "table_segment.h"

namespace satrap {

namespace {

namespace fs = std::filesystem;

std::string hex(std::span<const std::byte> bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : bytes) {
    text += kDigits[std::to_integer<unsigned>(byte) >> 4];
    text += kDigits[std::to_integer<unsigned>(byte) & 15];
  }
  return text;
}

void check_identity(const ControlFile& control, const BootId& boot, std::uint32_t replica_index,
                    std::uint32_t replica_size) {
  const ControlHeader& header = control.header();
  if (header.boot != boot) {
    throw TableError(control.path() + ": of another run of the machine (boot " + hex(header.boot) +
                     ", this is boot " + hex(boot) + ")");
  }
  if (header.replica_index != replica_index || header.replica_size != replica_size) {
    throw TableError(control.path() + ": of shard " + std::to_string(header.replica_index) + " of " +
                     std::to_string(header.replica_size) + ", not " + std::to_string(replica_index) + " of " +
                     std::to_string(replica_size));
  }
}

void check_whole(const ControlFile& control) {
  switch (control.state()) {
    case GenerationState::kServing:
      return;
    case GenerationState::kLoading:
      throw TableError(control.path() + ": its server ended before it was loaded");
    case GenerationState::kAbandoned:
      throw TableError(control.path() + ": it was abandoned");
  }
}

TableError held(const ControlFile& control) {
  return TableError(control.path() + ": held by process " + std::to_string(control.pid()));
}

// Refuses what cannot fit however it is laid out, before the first of many files is made. Throws
// TableSpaceError.
void check_room(const std::string& path, std::size_t rows, RowShape shape) {
  const std::size_t row = sizeof(std::uint64_t) + shape.words() * 8 + sizeof(std::uint32_t);
  const auto refuse = [&](const char* what, std::size_t room, const char* advice) {
    throw TableSpaceError(path + ": " + std::to_string(rows) + " rows take " + std::to_string(row) +
                          " bytes each at least, and " + what + " has room for " + std::to_string(room) +
                          " bytes; " + advice);
  };
  const auto fits = [&](std::size_t room) { return rows <= room / row; };
  if (const std::size_t room = available_memory(); !fits(room)) {
    refuse("the machine", room, "use more shards, or row_dtype: float16");
  }
  struct statvfs system{};
  if (::statvfs(fs::path(path).parent_path().c_str(), &system) != 0) return;
  if (const std::size_t room = system.f_bavail * system.f_frsize; !fits(room)) {
    refuse("the file system", room,
           "give it more (containers: a larger shm, e.g. --shm-size), or set "
           "embedding_server.table_directory to another one");
  }
}

// Every table of the folder that was whole when its writer ended.
std::map<std::size_t, std::shared_ptr<Table>> recover_tables(const std::string& folder,
                                                             const ControlFile& control, const BootId& boot) {
  std::map<std::size_t, std::shared_ptr<Table>> tables;
  std::vector<fs::path> unfinished;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const auto shape = shape_of_folder(entry.path().filename().string());
    if (!shape || entry.is_symlink() || !entry.is_directory()) continue;
    if (!fs::exists(entry.path() / kDirectoryFile)) {
      unfinished.push_back(entry.path());
      continue;
    }
    auto table = Table::recover(folder_memory(entry.path().string(), control.modes()),
                                {boot, control.header().instance});
    if (table->dim() != shape->dim || table->type() != shape->type) {
      throw TableError(entry.path().string() +
                       ": holds a table of another shape: " + table_folder({table->dim(), table->type()}));
    }
    if (!tables.emplace(shape->dim, std::move(table)).second) {
      throw TableError(folder + ": has two tables of dim " + std::to_string(shape->dim));
    }
  }
  // A table is counted after it was made and before its first row, so one more than counted is an empty one.
  if (tables.size() < control.tables()) {
    throw TableError(folder + ": has " + std::to_string(tables.size()) + " of " +
                     std::to_string(control.tables()) + " tables: the others are missing");
  }
  for (const fs::path& path : unfinished) fs::remove_all(path);
  return tables;
}

// The control file goes last: as long as there is something, it says what.
void remove_files(const std::string& folder) {
  try {
    if (fs::is_symlink(fs::symlink_status(folder))) {
      fs::remove(folder);  // the link alone: what it leads to is not ours
      return;
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      if (entry.path().filename() != ControlFile::kName) fs::remove_all(entry.path());
    }
    fs::remove(fs::path(folder) / ControlFile::kName);
    fs::remove(folder);
  } catch (const fs::filesystem_error& error) {
    throw TableError(std::string(error.path1()) + ": cannot be removed: " + error.code().message());
  }
}

}  // namespace

TableGeneration::TableGeneration(std::string folder, ControlFile control,
                                 std::map<std::size_t, std::shared_ptr<Table>> tables)
    : folder_(std::move(folder)),
      instance_(control.header().instance),
      boot_(control.header().boot),
      control_(std::make_unique<ControlFile>(std::move(control))),
      tables_(std::move(tables)) {
  heartbeat_.emplace(*control_);
}

std::unique_ptr<TableGeneration> TableGeneration::create(const std::string& folder,
                                                         const GenerationIdentity& identity,
                                                         std::span<const std::byte> info,
                                                         const FileModes& modes) {
  // folder_memory would accept one that is there.
  if (fs::symlink_status(folder).type() != fs::file_type::not_found) {
    throw TableError(folder + ": there is something already");
  }
  folder_memory(folder, modes);
  try {
    return std::unique_ptr<TableGeneration>(
        new TableGeneration(folder, ControlFile::create(folder, identity, info, modes), {}));
  } catch (...) {
    // The first error is the one to tell. Nothing here takes a descriptor, of which there may be none left.
    std::error_code ignored;
    for (const char* name : {ControlFile::kUnnamed, ControlFile::kName})
      fs::remove(fs::path(folder) / name, ignored);
    fs::remove(folder, ignored);
    throw;
  }
}

std::unique_ptr<TableGeneration> TableGeneration::recover(const std::string& folder, const BootId& boot,
                                                          std::uint32_t replica_index,
                                                          std::uint32_t replica_size) {
  ControlFile control = ControlFile::open_for_writing(folder);
  check_identity(control, boot, replica_index, replica_size);
  if (!control.try_lock()) throw held(control);
  check_whole(control);
  static_cast<void>(control.info());  // damage is found now
  try {
    auto tables = recover_tables(folder, control, boot);
    control.set_tables(static_cast<std::uint32_t>(tables.size()));
    control.set_pid(static_cast<std::uint32_t>(::getpid()));
    control.beat();  // readers see it alive from now on, not from its thread's first turn
    return std::unique_ptr<TableGeneration>(
        new TableGeneration(folder, std::move(control), std::move(tables)));
  } catch (const fs::filesystem_error& error) {
    throw TableError(folder + ": " + error.what());
  }
}

std::shared_ptr<Table> TableGeneration::add_table(std::size_t dim, RowType type, std::size_t rows,
                                                  unsigned threads) {
  const std::lock_guard alone(growing_);
  const FileModes modes = [&] {
    const std::lock_guard lock(mutex_);
    if (tables_.contains(dim)) {
      throw std::invalid_argument("there is a table of dim " + std::to_string(dim) + " already");
    }
    return control().modes();
  }();
  const std::string path = folder_ + "/" + table_folder({dim, type});
  check_room(path, rows, {dim, type});
  try {
    auto table = Table::create(dim, type, rows, folder_memory(path, modes), {boot_, instance_}, threads);
    const std::lock_guard lock(mutex_);
    tables_.emplace(dim, table);
    control().set_tables(static_cast<std::uint32_t>(tables_.size()));
    return table;
  } catch (...) {
    std::error_code ignored;  // the first error is the one to tell
    fs::remove_all(path, ignored);
    throw;
  }
}

std::map<std::size_t, std::shared_ptr<Table>> TableGeneration::tables() const {
  const std::lock_guard lock(mutex_);
  return tables_;
}

void TableGeneration::serve() {
  const std::lock_guard lock(mutex_);
  control().set_state(GenerationState::kServing);
}

void TableGeneration::abandon() {
  const std::lock_guard lock(mutex_);
  control().set_state(GenerationState::kAbandoned);
}

void TableGeneration::remove() {
  const std::lock_guard alone(growing_);
  abandon();
  try {
    remove_files(folder_);
  } catch (...) {
    let_go();
    throw;
  }
  let_go();
}

void TableGeneration::close() {
  const std::lock_guard alone(growing_);
  let_go();
}

void TableGeneration::let_go() {
  const std::lock_guard lock(mutex_);
  heartbeat_.reset();
  control_.reset();
  tables_.clear();
}

GenerationState TableGeneration::state() const {
  const std::lock_guard lock(mutex_);
  return control().state();
}

std::vector<std::byte> TableGeneration::info() const {
  const std::lock_guard lock(mutex_);
  return control().info();
}

void TableGeneration::set_info(std::span<const std::byte> info) {
  const std::lock_guard lock(mutex_);
  control().set_info(info);
}

Watermark TableGeneration::watermark() const {
  const std::lock_guard lock(mutex_);
  return control().watermark();
}

void TableGeneration::set_watermark(const Watermark& watermark) {
  const std::lock_guard lock(mutex_);
  control().set_watermark(watermark);
}

std::size_t TableGeneration::bytes() const {
  std::size_t sum = sizeof(ControlPage);
  for (const auto& [dim, table] : tables()) sum += table->bytes();
  return sum;
}

ControlFile& TableGeneration::control() const {
  if (!control_) throw std::logic_error(folder_ + ": the generation was closed");
  return *control_;
}

void discard_generation(const std::string& folder) {
  // Held until the files are gone, so that nobody takes over what is being removed.
  std::optional<ControlFile> control;
  try {
    if (!fs::is_symlink(fs::symlink_status(folder))) control = ControlFile::open_for_writing(folder);
  } catch (const TableError&) {
    // No control file, or one that nobody can use: there is nobody to tell.
  }
  if (control) {
    if (!control->try_lock()) throw held(*control);
    control->set_state(GenerationState::kAbandoned);
  }
  remove_files(folder);
}

}  // namespace satrap
