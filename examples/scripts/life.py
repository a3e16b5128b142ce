# Conway's game of life: a glider, four generations later one cell further down and to the right.
living = {(1, 0), (2, 1), (0, 2), (1, 2), (2, 2)}
for _ in range(5):
    for y in range(6):
        print("".join("#" if (x, y) in living else "." for x in range(6)))
    print()
    neighbours = [(x + i, y + j) for x, y in living for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    counts = {cell: neighbours.count(cell) for cell in neighbours}
    living = {cell for cell, count in counts.items() if count == 3 or (count == 2 and cell in living)}
