"""The exercises, a module for each notebook: cases, typical mistakes, hints.  `mmo.course.exercises` finds them."""
