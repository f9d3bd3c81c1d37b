"""The notebooks' exercises: check a reader's answer. A check names the properties of an answer, never the answer."""


def check(answer, claims: dict):
    """Print whether an answer has the properties that an exercise asks for.

    Parameters
    ----------
    answer : the value that the reader's cell has made; None while the cell is empty.
    claims : each property in words, and a function that says whether the answer has it.
    """
    if answer is None:
        print("Nothing to check yet: fill in the cell above and run it.")
        return
    for words, holds in claims.items():
        try:
            came = "something else" if not holds(answer) else None
        except Exception as error:  # A reader's answer may be of any kind.
            came = f"{type(error).__name__}: {error}"
        if came:
            print(f"Not yet. Expected {words}, got {came}.")
            return
    print("Right: " + "; ".join(claims) + ".")
