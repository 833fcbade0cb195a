// The piece of a .emb file that is in memory: all of one that was given as bytes, a buffer's worth of one
// that is read.
#ifndef SATRAP_FILE_WINDOW_H_
#define SATRAP_FILE_WINDOW_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "satrap/embedding_file.h"

namespace satrap {

class FileWindow {
 public:
  // What a core's second-level cache holds beside the rows' way into a table: the bytes are still there when
  // they are decoded, and again when they are copied.
  static constexpr std::size_t kBufferBytes = std::size_t{512} << 10;

  // `let_go` is called before pointers from reach() become invalid.
  FileWindow(const EmbeddingFile& file, std::function<void()> let_go,
             std::size_t buffer_bytes = kBufferBytes);

  std::size_t file_size() const { return file_.size(); }

  // `bytes` bytes of the file from `offset` on, which have to be inside it and at or behind every earlier
  // offset. What follows them is there as well up to end(). Throws DecodeError if the file ended earlier than
  // it said, std::system_error.
  const std::byte* reach(std::size_t offset, std::size_t bytes) {
    if (offset + bytes > begin_ + present_.size()) advance(offset, bytes);
    return present_.data() + (offset - begin_);
  }
  const std::byte* end() const { return present_.data() + present_.size(); }

 private:
  void advance(std::size_t offset, std::size_t bytes);

  const EmbeddingFile file_;
  const std::function<void()> let_go_;
  std::size_t capacity_ = 0;
  std::unique_ptr<std::byte[]> buffer_;
  std::size_t begin_ = 0;  // where in the file present_ begins
  std::span<const std::byte> present_;
};

}  // namespace satrap

#endif  // SATRAP_FILE_WINDOW_H_
