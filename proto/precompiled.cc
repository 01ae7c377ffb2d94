// Only carries a precompiled header: see CMakeLists.txt.
