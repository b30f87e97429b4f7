/* A library that is only there to be loaded: ROCm's runtime, its register, or, with -DSHADOW, a
 * library that says that it is a tool, as PyTorch's libtorch_cpu does. */

#ifdef SHADOW
void* rocprofiler_configure(void);
__attribute__((visibility("default"))) void* rocprofiler_configure(void) { return 0; }
#else
int fake_part(void);
__attribute__((visibility("default"))) int fake_part(void) { return 0; }
#endif
