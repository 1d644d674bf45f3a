//! The client against the emulator, and against servers that answer as AuthPI never should.

mod emulator;
