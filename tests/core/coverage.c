/* Coverage builds only, linked with --wrap=_exit: a forked case that ends in _exit() writes
 * its counts first.  What is killed still counts nothing. */
void __gcov_dump(void);
_Noreturn void __real__exit(int status);
_Noreturn void __wrap__exit(int status);

void __wrap__exit(int status)
{
    __gcov_dump();
    __real__exit(status);
}
