// What the native tests share: CHECK aborts with the place, so that a sanitizer's run shows the stack.
#ifndef SATRAP_TESTS_CHECK_H_
#define SATRAP_TESTS_CHECK_H_

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

// The statement must throw `Exception`.
#define CHECK_THROWS(Exception, statement)   \
  do {                                       \
    bool thrown = false;                     \
    try {                                    \
      statement;                             \
    } catch (const Exception&) {             \
      thrown = true;                         \
    }                                        \
    CHECK(thrown && #Exception " expected"); \
  } while (false)

#endif  // SATRAP_TESTS_CHECK_H_
