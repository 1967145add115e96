"""A reward function of a user, for tests."""


def share_of_letters(messages, response):
    return sum("a" <= character <= "z" for character in response) / 6
