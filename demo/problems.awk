# Writes arithmetic word problems, one JSON object a line; the same variables give the same lines.
#   awk -v kind=KIND -v count=N -v seed=S [-v questions=1 | -v plain=1] -f demo/problems.awk
# kind: "basic" (adding and taking away, one to three steps), "twice" (the words "twice as many",
# which never occur in basic ones). All numbers are below 51. Lines are chats {"messages": [...], "answer": N}; with
# questions=1 the chat ends with the user, to be answered; with plain=1 lines are text, for the
# tokenizer.
# Only POSIX awk: the random numbers are Park and Miller's x = 16807 x mod (2^31 - 1).

function below(n) {
  state = (state * 16807) % 2147483647
  return int(state / 2147483647 * n)
}
function between(low, high) { return low + below(high - low + 1) }
function one_of(list, n) { return list[1 + below(n)] }

# A step of the answer: its line of working goes to `work`, its result to `value`.
function step(a, sign, b) {
  value = sign == "+" ? a + b : a - b
  work = work (work == "" ? "" : ", ") a sign b "=" value
  return value
}

# Appends to `text` that `who`, who has `have`, gets or loses some; returns what is left.
function change(who, have,   n) {
  if (have < 40 && (have < 3 || below(2))) {
    n = between(2, 50 - have)
    text = text " " who " " one_of(gain, gains) " " n " more."
    return step(have, "+", n)
  }
  n = between(1, have - 1)
  text = text " " who " " one_of(lose, loses) " " n "."
  return step(have, "-", n)
}

function basic(   form, a, b, c, n) {
  form = below(6)
  if (form < 3) {  # one to three changes
    a = between(2, 40)
    text = name " has " a " " thing "."
    for (n = 0; n <= form; n++) a = change(name, a)
    question = "How many " thing " does " name " have now?"
    return
  }
  a = between(2, 40)
  b = between(1, 50 - a)
  text = name " has " a " " thing "."
  if (form == 3) {
    text = text " " other " has " b " " thing "."
    step(a, "+", b)
    question = "How many " thing " do they have together?"
    return
  }
  if (form == 4 && a > 5 && below(2)) {
    b = between(1, a - 1)
    text = text " " other " has " b " fewer."
    c = step(a, "-", b)
  } else {
    if (form == 5) {
      a = between(2, 20)
      b = between(1, 50 - 2 * a)
      text = name " has " a " " thing "."
    }
    text = text " " other " has " b " more."
    c = step(a, "+", b)
  }
  if (form == 5) {
    step(a, "+", c)
    question = "How many " thing " do they have together?"
  } else {
    question = "How many " thing " does " other " have?"
  }
}

function twice(   form, a, c) {
  form = below(3)
  a = between(2, form == 1 ? 16 : 25)
  text = name " has " a " " thing ". " other " has twice as many."
  c = step(a, "+", a)
  question = "How many " thing " does " other " have?"
  if (form == 1) {
    step(a, "+", c)
    question = "How many " thing " do they have together?"
  } else if (form == 2) {
    change(other, c)
    question = "How many " thing " does " other " have now?"
  }
}

BEGIN {
  names = split("Ann Ben Carla David Emma Farid Grace Hugo Iris Jonas Kim Lena Mia Noah Olga Paul " \
    "Rosa Sam Tara Yusuf", name_list, " ")
  things = split("apples pears books coins shells stamps marbles cards pencils buttons stones " \
    "cookies tickets balloons flowers stickers", thing_list, " ")
  gains = split("finds buys gets wins picks", gain, " ")
  loses = split("loses sells drops uses", lose, " ")
  state = seed * 7919 + 12345
  for (line = 0; line < 20; line++) below(2)
  for (line = 0; line < count; line++) {
    name = one_of(name_list, names)
    do other = one_of(name_list, names); while (other == name)
    thing = one_of(thing_list, things)
    work = ""
    if (kind == "twice") twice(); else basic()
    if (plain) {
      printf "user\n%s %s\nassistant\n%s. Answer: %d\n", text, question, work, value
      continue
    }
    printf "{\"messages\": [{\"role\": \"user\", \"content\": \"%s %s\"}", text, question
    if (!questions)
      printf ", {\"role\": \"assistant\", \"content\": \"%s. Answer: %d\"}", work, value
    printf "], \"answer\": %d}\n", value
  }
}
