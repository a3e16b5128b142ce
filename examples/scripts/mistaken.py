# Has a mistake.
numbers: list[int] = []
print("the mean of", numbers)
print("is", sum(numbers) / len(numbers))
