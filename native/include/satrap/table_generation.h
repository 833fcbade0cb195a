// A generation: what one checkpoint became. A folder with a control file and one folder for each dim and
// dtype.
//
//     <generation>/control
//                  16-float32/     a table
//
// LIFE
//
//     create ──▶ loading ──add_table──▶ loading ──serve──▶ serving ──abandon──▶ abandoned ──remove──▶ gone
//                                                             │
//                       (the process ends, in any way)        └──recover──▶ serving
//
// A process that is killed while loading leaves a folder that the next start removes (discard_generation);
// one that is killed while serving leaves one that it takes over (recover).
#ifndef SATRAP_TABLE_GENERATION_H_
#define SATRAP_TABLE_GENERATION_H_

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "satrap/table.h"
#include "satrap/table_control.h"

namespace satrap {

// A generation with its writer: holds the control file's lock, and its heart beats.
//
// Threads: every function from any thread. Only add_table, remove and close make others of the three wait.
class TableGeneration {
 public:
  // Makes `folder` and in it the control file. Throws TableSpaceError, TableError (there is something
  // already), std::invalid_argument (info too long).
  static std::unique_ptr<TableGeneration> create(const std::string& folder,
                                                 const GenerationIdentity& identity,
                                                 std::span<const std::byte> info, const FileModes& modes);

  // Takes over what another process left, all tables included. Throws TableError, with the reason: held by a
  // living process, of another run of the machine, of another shard, of another layout, damaged, not whole,
  // abandoned; then nothing was changed that matters. Throws TableSpaceError.
  static std::unique_ptr<TableGeneration> recover(const std::string& folder, const BootId& boot,
                                                  std::uint32_t replica_index, std::uint32_t replica_size);

  ~TableGeneration() = default;  // as close()
  TableGeneration(const TableGeneration&) = delete;
  TableGeneration& operator=(const TableGeneration&) = delete;

  // A new table for `rows` rows, whose segments `threads` threads allocate. Throws std::invalid_argument
  // (there is one of that dim, or no such dim), TableSpaceError (what was begun is removed), TableError.
  std::shared_ptr<Table> add_table(std::size_t dim, RowType type, std::size_t rows, unsigned threads);
  std::map<std::size_t, std::shared_ptr<Table>> tables() const;  // by dim

  void serve();
  // Tells readers in other processes to leave. The tables go on for those of this process.
  void abandon();
  // Abandons, unlinks all files and the folder, and closes. Memory is given back when the last reader lets
  // go.
  void remove();
  // Lets go of lock and heartbeat; the files stay, for recover().
  void close();

  const std::string& folder() const { return folder_; }
  const InstanceId& instance() const { return instance_; }
  GenerationState state() const;
  std::vector<std::byte> info() const;
  void set_info(std::span<const std::byte> info);
  Watermark watermark() const;
  void set_watermark(const Watermark& watermark);
  // Memory held, everything counted: tables and control file.
  std::size_t bytes() const;

 private:
  TableGeneration(std::string folder, ControlFile control,
                  std::map<std::size_t, std::shared_ptr<Table>> tables);

  void let_go();
  // Throws std::logic_error after close().
  ControlFile& control() const;

  const std::string folder_;
  const InstanceId instance_;
  const BootId boot_;
  std::mutex growing_;        // held by add_table, remove and close, which may take long
  mutable std::mutex mutex_;  // guards what follows; held for moments only
  std::unique_ptr<ControlFile> control_;
  std::map<std::size_t, std::shared_ptr<Table>> tables_;
  std::optional<Heartbeat> heartbeat_;  // ends before control_ does
};

// Marks the generation in `folder` abandoned, if that can be done, and removes it, whatever state it is in:
// whole, half made, half removed or damaged. Throws TableError: a living process holds it, or it cannot be
// removed.
void discard_generation(const std::string& folder);

}  // namespace satrap

#endif  // SATRAP_TABLE_GENERATION_H_
