// Preloaded into the program's process: "cuda" and "npu" both name the one virtual device, whose printed name is one of
// them. A build of PyTorch for the CPU parses "cuda" as a device that it lacks, and lets nobody take that name; these
// three functions of libc10 are found here first. No header of PyTorch is needed.
#include <dlfcn.h>

#include <cctype>
#include <cstdlib>
#include <string>

using Parse = void (*)(void*, const std::string&);

#define PARSE _ZN3c106DeviceC1ERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE
#define TEXT(x) #x
#define QUOTED(x) TEXT(x)

extern "C" void PARSE(void* self, const std::string& text) {
  static const Parse parse =
      reinterpret_cast<Parse>(dlsym(dlopen("libc10.so", RTLD_LAZY | RTLD_NOLOAD), QUOTED(PARSE)));
  const std::string name = text.substr(0, text.find(':'));
  if (name == "cuda" || name == "npu") return parse(self, "privateuseone" + text.substr(name.size()));
  parse(self, text);
}

namespace c10 {
std::string get_privateuse1_backend(bool lower_case) {
  const char* given = std::getenv("TAICANG_DEVICE_NAME");
  std::string name = given ? given : "cuda";
  if (!lower_case)
    for (char& letter : name) letter = static_cast<char>(std::toupper(letter));
  return name;
}

bool is_privateuse1_backend_registered() { return true; }
}  // namespace c10
