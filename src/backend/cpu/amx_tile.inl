// Tile instructions of AMX with the register as a template argument (those of the compiler take
// literals only), or both kinds emulated. The compiler doesn't know what memory they read and write:
// between them and its own accesses to that memory goes a tile_fence(). Included inside an anonymous
// namespace.
#ifdef HONE_EMULATE_AMX
#include "backend/cpu/amx_emulated.inl"
#else

inline void tile_fence() { __asm__ volatile("" : : : "memory"); }
template <int Tile>
inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(Tile));
}
template <int Tile>
inline void tile_load(const void* from, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(Tile));
}
// Past L1.
template <int Tile>
inline void tile_stream(const void* from, int64_t stride) {
  __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(Tile));
}
template <int Tile>
inline void tile_store(void* to, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(Tile));
}
// Sum += A B: rows of A times columns of B, pairs of bf16.
template <int Sum, int A, int B>
inline void tile_multiply() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(A), "i"(B));
}
#endif
