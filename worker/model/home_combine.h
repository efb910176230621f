// What a Model tells the exchange of its experts: the options of its assignment, and the kernels'
// combine for tokens that are combined at their home rank. Pure; any thread.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "comm/exchange/combine_parts.h"
#include "comm/fabric/moe_exchange.h"
#include "comm/types/worker_facts.h"

namespace conclave {

// nodes: of every rank of the plan, as in Commit; timeout: of each wait for peers.
MoeExchangeOptions ExchangeOptionsOf(const Assign& assign, absl::Span<const std::string> nodes,
                                     absl::Duration timeout);

// CombineParts by the kernels of moe_permute: the same bits.
void CombineAtHome(const PartsToCombine& parts);

}  // namespace conclave
