// The life of MPI in this process: see mpi_session.h.
#include "src/parallel/mpi_session.h"

#ifdef DITHER_HAS_MPI

#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <exception>

#include "base/error.h"

namespace dither {

bool built_with_mpi() { return true; }

void check_mpi(int status, const char* operation) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (MPI_Error_string(status, text, &length) != MPI_SUCCESS) length = 0;
  throw Error(fmt::format("{}: {} (MPI error {})", operation, std::string(text, static_cast<size_t>(length)), status));
}

MpiSession::MpiSession() : exceptions_(std::uncaught_exceptions()) {
  int begun = 0, granted = MPI_THREAD_SINGLE;
  check_mpi(MPI_Initialized(&begun), "MPI_Initialized");
  DITHER_ASSERT(begun == 0);
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &granted), "MPI_Init_thread");
  // From here on every call says what went wrong instead of ending the process. Others are made from this one.
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  if (granted < MPI_THREAD_FUNNELED) {
    throw Error(fmt::format(
        "MPI_Init_thread: MPI grants thread level {}, needs {} (MPI_THREAD_FUNNELED): use an MPI library with threads",
        granted, int{MPI_THREAD_FUNNELED}));  // Open MPI: an unnamed enum, which fmt 10 refuses
  }
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(node, &local_rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(node, &local_size_), "MPI_Comm_size");
  check_mpi(MPI_Comm_free(&node), "MPI_Comm_free");
}

MpiSession::~MpiSession() {
  if (abandoned_ || std::uncaught_exceptions() > exceptions_) return;
  (void)MPI_Finalize();  // its failure changes nothing any more: the work is done
}

std::string MpiSession::broadcast(const std::string& of_rank_0) {
  constexpr int64_t kMost = int64_t{1} << 30;  // bytes a call: counts are int
  std::string text = of_rank_0;
  int64_t bytes = static_cast<int64_t>(text.size());
  check_mpi(MPI_Bcast(&bytes, 1, MPI_INT64_T, 0, MPI_COMM_WORLD), "MPI_Bcast");
  text.resize(static_cast<size_t>(bytes));
  for (int64_t begin = 0; begin < bytes; begin += kMost) {
    check_mpi(
        MPI_Bcast(text.data() + begin, static_cast<int>(std::min(kMost, bytes - begin)), MPI_BYTE, 0, MPI_COMM_WORLD),
        "MPI_Bcast");
  }
  return text;
}

}  // namespace dither

#else

#include "base/error.h"

namespace dither {

bool built_with_mpi() { return false; }

MpiSession::MpiSession() {
  throw Error(
      "this program was built without MPI: install libopenmpi-dev and openmpi-bin and build again with "
      "-DDITHER_MPI=ON; "
      "allowed here, for the ranks of one node: parallel.transport \"host\"");
}

MpiSession::~MpiSession() = default;

std::string MpiSession::broadcast(const std::string& of_rank_0) { return of_rank_0; }

}  // namespace dither

#endif
