# The client library. Its one public header is include/e2eectl.h; the wire layer is linked in and not visible outside.
add_library(e2eectl SHARED account.c call.c client.c error.c event.c message.c params.c value.c)
target_include_directories(e2eectl
  PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
  PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(e2eectl PRIVATE e2ee_wire)
set_target_properties(e2eectl PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 0
  LINK_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/e2eectl.map)
target_link_options(e2eectl PRIVATE -Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/e2eectl.map)
if(NOT E2EED_SANITIZE AND NOT E2EED_TSAN)
  target_link_options(e2eectl PRIVATE -Wl,-z,defs)
endif()

foreach(dir LIBDIR INCLUDEDIR)
  if(IS_ABSOLUTE "${CMAKE_INSTALL_${dir}}")
    set(E2EECTL_PC_${dir} "${CMAKE_INSTALL_${dir}}")
  else()
    set(E2EECTL_PC_${dir} "\${prefix}/${CMAKE_INSTALL_${dir}}")
  endif()
endforeach()
configure_file(e2eectl.pc.in ${CMAKE_CURRENT_BINARY_DIR}/e2eectl.pc @ONLY)

install(TARGETS e2eectl LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/e2eectl.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/e2eectl.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
