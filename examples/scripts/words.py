# How often each word of the text beside this script occurs, as JSON.
import json

with open("/scripts/text.txt") as file:
    words = [word.strip(".,;") for word in file.read().lower().split()]
print(json.dumps({word: words.count(word) for word in sorted(set(words)) if words.count(word) > 1}))
