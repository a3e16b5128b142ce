# Looks for files that are none of its business.
for path in ("/etc/passwd", "/scripts/../../../etc/passwd", "/proc/self/environ"):
    try:
        open(path).close()
        print(path, "can be read")
    except OSError as error:
        print(path, "cannot be opened:", error)
try:
    open("/scripts/primes.py", "w").close()
    print("a script can be overwritten")
except OSError as error:
    print("no script can be overwritten:", error)
