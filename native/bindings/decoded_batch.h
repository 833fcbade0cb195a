// A decoded batch as Python holds it: the batch, and the buffer that its views point into.
#ifndef SATRAP_BINDINGS_DECODED_BATCH_H_
#define SATRAP_BINDINGS_DECODED_BATCH_H_

#include <nanobind/nanobind.h>

#include <cstddef>
#include <span>

#include "satrap/batch_codec.h"

// A contiguous buffer of any Python object, held as long as this lives. Move-less: views point into it.
class HeldBuffer {
 public:
  explicit HeldBuffer(nanobind::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw nanobind::python_error();
  }
  ~HeldBuffer() { PyBuffer_Release(&view_); }
  HeldBuffer(const HeldBuffer&) = delete;
  HeldBuffer& operator=(const HeldBuffer&) = delete;

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

struct DecodedBatch {
  explicit DecodedBatch(nanobind::handle data) : buffer(data) {
    const nanobind::gil_scoped_release unlocked;
    batch = satrap::decode_batch(buffer.bytes());
  }

  HeldBuffer buffer;
  satrap::Batch batch;
};

#endif  // SATRAP_BINDINGS_DECODED_BATCH_H_
