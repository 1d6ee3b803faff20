find_package(Threads REQUIRED)
add_executable(e2eed main.c app.c config.c locking.c vault.c wipe.c)
target_link_libraries(e2eed PRIVATE e2ee_session e2ee_store e2ee_transport e2ee_ipc e2ee_base e2ee_wire
  PkgConfig::EVENT PkgConfig::SODIUM PkgConfig::SYSTEMD PkgConfig::INIH Threads::Threads)
install(TARGETS e2eed DESTINATION ${CMAKE_INSTALL_BINDIR})
