// Detours: what to do where units wait for each other's space in a circle and no free space is
// within the circle. A unit steps aside to a rank that has room, or a rank drops a unit of which
// others hold a copy and gets it back at the end; either costs one more copy. One thread.
#pragma once

#include <cstdint>
#include <vector>

#include "placement/migration/move_state.h"

namespace conclave {

// A unit that has a copy on the way elsewhere and must leave `rank` in the next wave.
struct Eviction {
  int32_t unit = 0;
  int32_t rank = 0;
};

// How much room a circle is opened with: for the smallest unit that waits, which costs least, or if
// possible for the largest, which with units of several sizes may save more detours.
enum class DetourSize { kSmallest, kLargest };

struct DetourResult {
  int opened = 0;   // circles that can go on
  int waiting = 0;  // circles that found no room
};

// Opens the circles in which nothing can move, as many as there is room for, by the fewest bytes
// each, with moves of the current wave. Appends to `evictions` what has to leave when they landed.
DetourResult OpenCircles(DetourSize size, MoveState* state, std::vector<Eviction>* evictions);

// Makes room somewhere for one unit that has to step aside, or to be read from a store for another
// rank: sets aside the smallest unit of which others hold a copy, or else moves a unit elsewhere
// for a while (appended to `evictions`). For when OpenCircles and SeedFromStores found no room.
// False: nothing will do.
bool MakeRoom(MoveState* state, std::vector<Eviction>* evictions);

// Which seeds to read: those that a target has room for now, or all.
enum class SeedChoice { kLanding, kAll };

// Reads units that no rank holds, and whose targets have no store, from the store of another rank.
// Returns how many still wait for room there.
int SeedFromStores(SeedChoice choice, MoveState* state);

}  // namespace conclave
