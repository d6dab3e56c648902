/* On its way. */
#if NKI_WINDOWS
#endif
