"""What is drawn from recordings: pictures, keystrokes, sound. Runs apart from sessions, may die, can be made anew."""
