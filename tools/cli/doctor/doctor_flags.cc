#include "tools/cli/doctor/doctor_flags.h"

#include <memory>

#include "tools/cli/doctor/doctor.h"

namespace conclave {

void AddDoctor(CLI::App& root, const ChooseLongVerb& choose) {
  auto* app = root.add_subcommand(
      "doctor", "Check this machine, or hosts and a coordinator: versions, limits, links, clocks");
  auto options = std::make_shared<DoctorOptions>();
  app->add_option("--hosts", options->hosts_path,
                  "File with a host on each line: the doctor there is asked too")
      ->type_name("FILE");
  app->add_option("--remote-shell", options->remote_shell, "What runs a command on a host")
      ->capture_default_str();
  app->add_option("--remote-program", options->remote_program,
                  "Path of conclave on the hosts (default: as here)");
  app->add_option("--url", options->url, "Coordinator to ask, such as http://127.0.0.1:8000");
  app->add_option("--admin-token", options->admin_token,
                  "Admin token (default: from the state folder)");
  app->add_option("--state-dir", options->state_dir, "Folder of keys and admin token")
      ->type_name("DIR");
  app->add_flag("--json", options->json, "Print JSON");
  app->footer("Example: conclave doctor --hosts hosts.txt --json");
  app->callback([options, choose] {
    choose("doctor", [options](const auto& cancelled) { return RunDoctor(*options, cancelled); });
  });
}

}  // namespace conclave
