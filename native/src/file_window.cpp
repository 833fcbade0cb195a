#include "file_window.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace satrap {

FileWindow::FileWindow(const EmbeddingFile& file, std::function<void()> let_go, std::size_t buffer_bytes)
    : file_(file), let_go_(std::move(let_go)) {
  if (file.descriptor_ < 0) {
    present_ = file.memory_;
    return;
  }
  capacity_ = std::min(buffer_bytes, file.size());
  buffer_ = std::make_unique_for_overwrite<std::byte[]>(capacity_);
}

// Moves what is left to the front, and fills up behind it.
void FileWindow::advance(std::size_t offset, std::size_t bytes) {
  let_go_();
  const std::size_t kept = begin_ + present_.size() - offset;
  if (bytes > capacity_) {  // one entry that is larger than the buffer
    auto larger = std::make_unique_for_overwrite<std::byte[]>(bytes);
    std::copy_n(present_.data() + (offset - begin_), kept, larger.get());
    buffer_ = std::move(larger);
    capacity_ = bytes;
  } else if (kept > 0) {
    std::memmove(buffer_.get(), present_.data() + (offset - begin_), kept);
  }
  begin_ = offset;
  const std::size_t wanted = std::min(capacity_, file_.size() - offset);
  std::size_t present = kept;
  while (present < wanted) {
    const ssize_t got = ::pread(file_.descriptor_, buffer_.get() + present, wanted - present,
                                static_cast<off_t>(offset + present));
    if (got < 0) {
      if (errno == EINTR) continue;
      throw std::system_error(errno, std::generic_category(), "pread");
    }
    if (got == 0) {
      throw DecodeError(
          "the file became shorter while it was read: it had " + std::to_string(file_.size()) + " bytes",
          offset + present, "end");
    }
    present += static_cast<std::size_t>(got);
  }
  present_ = {buffer_.get(), present};
}

}  // namespace satrap
