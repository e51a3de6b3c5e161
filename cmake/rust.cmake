# The Rust side of text/: one static library behind a few C functions (rust/hf_text).
find_program(CARGO cargo REQUIRED)
# The rustc that came with that cargo, which need not be the first in PATH.
get_filename_component(CARGO_FOLDER ${CARGO} DIRECTORY)
find_program(RUSTC rustc HINTS ${CARGO_FOLDER} REQUIRED)
set(HF_TEXT_DIR ${CMAKE_SOURCE_DIR}/rust/hf_text)
# Where cargo builds: build folders that differ in C++ flags alone may share one.
set(HF_TEXT_TARGET ${CMAKE_BINARY_DIR}/rust CACHE PATH "target folder of cargo")
set(HF_TEXT_LIB ${HF_TEXT_TARGET}/release/libhf_text.a)
set(HF_TEXT_CROSS "")
if(CMAKE_CROSSCOMPILING)
  set(HF_TEXT_CROSS --target ${CMAKE_SYSTEM_PROCESSOR}-unknown-linux-gnu)
  set(HF_TEXT_LIB ${HF_TEXT_TARGET}/${CMAKE_SYSTEM_PROCESSOR}-unknown-linux-gnu/release/libhf_text.a)
endif()
file(GLOB_RECURSE HF_TEXT_SOURCES CONFIGURE_DEPENDS ${HF_TEXT_DIR}/src/*.rs)
add_custom_command(
  OUTPUT ${HF_TEXT_LIB}
  COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${HF_TEXT_TARGET} RUSTC=${RUSTC}
          ${CARGO} build --release --locked --quiet ${HF_TEXT_CROSS} --manifest-path ${HF_TEXT_DIR}/Cargo.toml
  DEPENDS ${HF_TEXT_SOURCES} ${HF_TEXT_DIR}/Cargo.toml ${HF_TEXT_DIR}/Cargo.lock
  COMMENT "cargo build hf_text"
  VERBATIM)
add_custom_target(hf_text_build DEPENDS ${HF_TEXT_LIB})
add_library(hf_text INTERFACE)
add_dependencies(hf_text hf_text_build)
target_link_libraries(hf_text INTERFACE ${HF_TEXT_LIB} Threads::Threads ${CMAKE_DL_LIBS} m)
