/* What must not outlive the implementation. */
#if defined(_MSC_VER)
#pragma warning(pop)
#endif
