// Rounds by MPI. Sums are formed here and not by MPI_SUM, whose order is the library's choice.
#include "src/parallel/mpi_communicator.h"

#ifdef DITHER_HAS_MPI

#include <mpi.h>

#include <exception>
#include <string>
#include <vector>

#include "base/error.h"
#include "src/parallel/host_collectives.h"
#include "src/parallel/mpi_session.h"

namespace dither {

namespace {

constexpr int kTag = 0;

/// Owns a communicator of MPI that returns its errors.
class Group {
 public:
  explicit Group(MPI_Comm made) : comm(made), exceptions_(std::uncaught_exceptions()) {
    check_mpi(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  ~Group() {
    int ended = 0;
    (void)MPI_Finalized(&ended);
    // Freeing may wait for the others, who may be gone when an exception is on its way.
    if (ended == 0 && std::uncaught_exceptions() <= exceptions_) (void)MPI_Comm_free(&comm);
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  int rank() const {
    int rank = 0;
    check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
    return rank;
  }
  int size() const {
    int size = 0;
    check_mpi(MPI_Comm_size(comm, &size), "MPI_Comm_size");
    return size;
  }

  MPI_Comm comm;

 private:
  const int exceptions_;
};

/// "Open MPI 4.1.4" of "Open MPI v4.1.4, package: ...", "MPICH Version: 4.0.2" of "MPICH Version:      4.0.2\n...".
std::string library_name() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  check_mpi(MPI_Get_library_version(text, &length), "MPI_Get_library_version");
  std::string name;
  for (const char c : std::string(text, static_cast<size_t>(length))) {
    if (c == ',' || c == '\n') break;
    const bool second_blank = !name.empty() && name.back() == ' ';
    const bool blank = c == ' ' || c == '\t';
    if (!(blank && second_blank) && !(c == 'v' && second_blank)) name += blank ? ' ' : c;
  }
  return name;
}

class MpiCommunicator final : public HostCommunicator {
 public:
  MpiCommunicator(std::unique_ptr<Group> group, Backend& backend, bool host_memory)
      : HostCommunicator(group->rank(), group->size(), backend, host_memory),
        group_(std::move(group)),
        incoming_(static_cast<size_t>(parcel_bytes() * size() + kCacheLine)),
        counts_(static_cast<size_t>(size())),
        places_(static_cast<size_t>(size())) {
    // Parcels begin on cache lines, as HostCommunicator promises its sums.
    const auto address = reinterpret_cast<uintptr_t>(incoming_.data());
    first_ = incoming_.data() + (kCacheLine - address % kCacheLine) % kCacheLine;
  }

  std::unique_ptr<Communicator> split(int color, int key) override {
    DITHER_ASSERT(color >= 0);  // a negative one means something else to MPI
    MPI_Comm made = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(group_->comm, color, key, &made), "MPI_Comm_split");
    return std::make_unique<MpiCommunicator>(std::make_unique<Group>(made), backend(), host_memory());
  }

  std::string description() const override {
    return "MPI (" + library_name() + (host_memory() ? ")" : "), through host memory");
  }

 protected:
  void exchange(const std::vector<Parcel>& to, std::vector<Parcel>& from) override;
  void publish(Parcel mine, std::vector<Parcel>& from) override;

 private:
  static constexpr int64_t kCacheLine = 64;

  std::byte* place_of(int q) const { return first_ + q * parcel_bytes(); }

  std::unique_ptr<Group> group_;
  std::vector<std::byte> incoming_;  // [size, parcel_bytes] after first_
  std::byte* first_;
  std::vector<int> counts_, places_;  // [size] of a publication
  std::vector<MPI_Request> requests_;
  std::vector<MPI_Status> statuses_;
};

void MpiCommunicator::exchange(const std::vector<Parcel>& to, std::vector<Parcel>& from) {
  requests_.clear();
  std::vector<int> senders;
  for (int q = 0; q < size(); ++q) {
    if (q == rank() || from[q].bytes == 0) continue;
    from[q].data = place_of(q);
    senders.push_back(q);
    check_mpi(MPI_Irecv(place_of(q), static_cast<int>(from[q].bytes), MPI_BYTE, q, kTag, group_->comm,
                        &requests_.emplace_back()),
              "MPI_Irecv");
  }
  for (int step = 1; step < size(); ++step) {
    const int q = (rank() + step) % size();  // every rank begins with another one
    if (to[q].bytes == 0) continue;
    DITHER_ASSERT(to[q].bytes <= parcel_bytes());
    check_mpi(MPI_Isend(to[q].data, static_cast<int>(to[q].bytes), MPI_BYTE, q, kTag, group_->comm,
                        &requests_.emplace_back()),
              "MPI_Isend");
  }
  statuses_.resize(requests_.size());
  check_mpi(MPI_Waitall(static_cast<int>(requests_.size()), requests_.data(), statuses_.data()), "MPI_Waitall");
  for (size_t i = 0; i < senders.size(); ++i) {
    int bytes = 0;
    check_mpi(MPI_Get_count(&statuses_[i], MPI_BYTE, &bytes), "MPI_Get_count");
    DITHER_ASSERT(bytes == from[senders[i]].bytes);  // else ranks are not in the same collective
  }
}

void MpiCommunicator::publish(Parcel mine, std::vector<Parcel>& from) {
  DITHER_ASSERT(mine.bytes <= parcel_bytes());
  for (int q = 0; q < size(); ++q) {
    counts_[q] = static_cast<int>(q == rank() ? mine.bytes : from[q].bytes);
    places_[q] = static_cast<int>(q * parcel_bytes());
    if (q != rank()) from[q].data = place_of(q);
  }
  check_mpi(MPI_Allgatherv(mine.data, counts_[rank()], MPI_BYTE, first_, counts_.data(), places_.data(), MPI_BYTE,
                           group_->comm),
            "MPI_Allgatherv");
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(Backend& backend, bool host_memory) {
  int begun = 0;
  check_mpi(MPI_Initialized(&begun), "MPI_Initialized");
  DITHER_ASSERT(begun != 0);
  MPI_Comm made = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &made), "MPI_Comm_dup");
  return std::make_unique<MpiCommunicator>(std::make_unique<Group>(made), backend, host_memory);
}

}  // namespace dither

#else

#include "src/parallel/mpi_session.h"

namespace dither {

std::unique_ptr<Communicator> make_mpi_communicator(Backend& /*backend*/, bool /*host_memory*/) {
  MpiSession says_that_there_is_none;
  return nullptr;
}

}  // namespace dither

#endif
