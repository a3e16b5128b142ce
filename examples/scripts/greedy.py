# Wants more memory than there is.
hoard: list[str] = []
while True:
    hoard.append("x" * 100000 + str(len(hoard)))
