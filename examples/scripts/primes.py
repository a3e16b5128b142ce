# The primes below a hundred, by Eratosthenes.
is_prime = [True] * 100
is_prime[0] = is_prime[1] = False
for n in range(2, 10):
    for multiple in range(n * n, 100, n):
        is_prime[multiple] = False
print(*(n for n in range(100) if is_prime[n]))
