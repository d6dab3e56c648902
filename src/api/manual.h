/* netkit.h - v@VERSION@ - networking for C and C++ in one header
 * MIT or public domain, see the end of this file.
 */
