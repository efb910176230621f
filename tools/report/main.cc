// report: turns what benches wrote as JSON into Markdown and self-contained SVG.
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "tools/report/exchange_report.h"

namespace conclave {
namespace {

absl::Status Run(const std::string& from, const std::string& folder) {
  std::ifstream in(from);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", from));
  ASSIGN_OR_RETURN(const ExchangeMeasurements measured, ParseExchangeMeasurements(text.str()));
  for (const ReportFile& file : WriteExchangeReport(measured)) {
    const std::string path = absl::StrCat(folder, "/", file.name);
    std::ofstream out(path);
    out << file.text;
    out.close();
    if (!out) return absl::UnavailableError(absl::StrCat("cannot write ", path));
    std::cout << path << "\n";
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  std::string from, folder = ".";
  CLI::App app("Writes exchange.md and its drawings from exchange_bench --json.\n"
               "example: report exchange.json --out pages");
  app.add_option("json", from, "what the bench wrote")->required();
  app.add_option("--out", folder, "folder to write into")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Run(from, folder);
  if (status.ok()) return 0;
  std::cerr << "report: " << status.message() << "\n";
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
