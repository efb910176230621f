// Network namespaces that belong to a process. Their names hold the owner's pid and start time, so
// that those of an owner that ended, however it ended, are known and removed: by the owner's
// janitor, a small process that waits for its end, and by the next owner's sweep. Removing one
// kills the processes in it. Any thread; several processes may use it at once.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// "cnh-PID-START-": what the names of the calling process's namespaces begin with.
std::string OwnNamespacePrefix();

// Ok when this process may make namespaces and links; else PermissionDenied or NotFound: one line
// that says what is missing.
absl::Status CheckNamespaceRights();

// Names beginning with `prefix`, sorted.
std::vector<std::string> ListNamespaces(absl::string_view prefix);

// Kills what runs in the namespaces whose names begin with `prefix`, and removes them.
void RemoveNamespaces(const std::string& prefix);

// RemoveNamespaces for owners that have ended; returns how many namespaces there were.
int SweepNamespaces();

// Puts the calling process into a namespace, for good, with a /sys that shows its devices (UCX
// lists those). The process must have one thread.
absl::Status EnterNamespace(const std::string& name);

// A child that removes the owner's namespaces of `prefix` when the owner has ended. Fork before
// threads start; end it by ReleaseJanitor.
absl::StatusOr<pid_t> StartJanitor(const std::string& prefix);
void ReleaseJanitor(pid_t janitor);

}  // namespace conclave
