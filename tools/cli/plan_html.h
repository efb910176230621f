// A plan as one self-contained web page: inline style and drawings, no script and nothing loaded
// from elsewhere; light or dark as the reader's system is; readable without colours. Pure; any
// thread.
#pragma once

#include <string>

#include "tools/cli/plan_document.h"

namespace conclave {

// The page's text, well-formed as XML too; equal documents give equal bytes.
std::string RenderPlanHtml(const PlanDocument& document);

}  // namespace conclave
