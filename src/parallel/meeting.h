// How the ranks of a job find each other and become a star: two TCP connections from every rank to rank 0.
//
// Rank 0 listens: at environment.address, or at a free port that it makes known, through `share` (MPI's broadcast) or
// through the file environment.rendezvous. What it makes known is "<nonce> <host>:<port>\n", the nonce in hexadecimal,
// drawn anew for each job, so that a file which an earlier run left leads nowhere: whoever answers there does not know
// the nonce, and the file is read again until the time is up. The file appears under its name as a whole (written
// beside it, then renamed) and goes once all are connected.
//
// A connection begins with `hello`: version u32, ranks u32, rank u32, line u32 (0 messages, 1 signs), nonce u64 (0: not
// told), name text. Rank 0 answers `welcome`: nonce u64, name text; `elsewhere`: another job's nonce; or `refused`:
// why. Nonce 0 is answered by `elsewhere` too where rank 0 made the place known itself. When all are there, every rank
// gets `begin` over its first line. A connection that says anything else is closed.
#pragma once

#include <string>
#include <vector>

#include "src/parallel/connection.h"
#include "src/parallel/control.h"

namespace dither::star {

/// A rank at the other end of a connection.
struct Member {
  int rank;
  std::string name;  // "rank 2 (node7, pid 123)"
  Connection line;
};

/// Members by rank: on rank 0 all others, elsewhere rank 0 alone.
struct Meeting {
  std::string name;  // of this rank
  std::vector<Member> messages, signs;
};

/// Returns when all ranks are there. Throws Error naming those that are not within `seconds`.
Meeting meet(const RankEnvironment& environment, double seconds, const Control::Share& share);

}  // namespace dither::star
