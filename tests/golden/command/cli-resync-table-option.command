sidespool resync --route r --table public.a
