sidespool replay --route r --from 1 public.a
