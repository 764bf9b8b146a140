#include "store/pickle_reader.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/conj_physical.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/neg.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <string_view>
#include <unordered_map>
#include <variant>

#include "store/pickle_code.h"
#include "store/storage_types.h"

namespace lockstep {
namespace {

struct None {};
struct Opaque {};  // a number that no tensor needs
struct Global {
  std::string name;  // "module.class"
};
struct Storage {
  std::string key;
  at::ScalarType type;
  int64_t count;
};
struct Value;
using Items = std::vector<Value>;
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
};

// Lists, tuples and dicts belong to the machine, so that neither a cycle nor deep nesting is a trouble when they go.
struct Value : std::variant<None, Opaque, bool, int64_t, std::string, Global, Storage, at::Tensor, Items*, Dict*> {
  using variant::variant;
};

template <typename T>
const T& as(const Value& value, const char* what) {
  const T* found = std::get_if<T>(&value);
  if (found == nullptr) throw Malformed(fmt::format("its pickle has something else in place of {}", what));
  return *found;
}

const Items& items_of(const Value& value, const char* what) { return *as<Items*>(value, what); }

// What was a mark on the tensor when it was saved, and not in its bytes: torch._utils.set_tensor_metadata.
at::Tensor resolved(at::Tensor tensor, const Dict& marks) {
  for (const auto& [key, value] : marks.entries) {
    const auto& mark = as<std::string>(key, "the name of a mark");
    const bool on = as<bool>(value, "a mark");
    if (mark != "neg" && mark != "conj") throw Malformed(fmt::format("a tensor has the unknown mark {}", mark));
    if (on && (mark == "neg" ? tensor.scalar_type() == at::kBool : !tensor.is_complex())) {
      throw Malformed(fmt::format("a tensor of type {} has the mark {}", c10::toString(tensor.scalar_type()), mark));
    }
    if (on) tensor = mark == "neg" ? at::neg(tensor) : at::conj_physical(tensor);
  }
  return tensor;
}

// The stack machine of pickle.
class Machine {
 public:
  explicit Machine(const ZipReader& archive) : archive_(archive), code_(archive.member("data.pkl")) {}
  Value run();

 private:
  Value pop();
  Items pop_to_mark();
  Value& top();
  void put_memo(uint64_t index) { memo_[index] = top(); }
  void get_memo(uint64_t index);
  void push_items(Items items) { stack_.emplace_back(&items_.emplace_back(std::move(items))); }
  void make_tuple(std::size_t size);
  void set_items(const Items& keys_and_values);
  void append_items(Items items);

  Value reduce(const Global& function, const Items& arguments);
  Storage storage(const Items& id) const;
  at::Tensor tensor(const Items& arguments, bool typed_storage);
  at::Tensor storage_values(const Storage& storage);

  const ZipReader& archive_;
  PickleCode code_;
  Items stack_;
  std::deque<Items> items_;
  std::deque<Dict> dicts_;
  std::vector<std::size_t> marks_;
  std::unordered_map<uint64_t, Value> memo_;
  std::unordered_map<std::string, at::Tensor> storages_;
};

Value& Machine::top() {
  if (stack_.empty() || (!marks_.empty() && stack_.size() == marks_.back()))
    throw Malformed("its pickle's stack is empty");
  return stack_.back();
}

Value Machine::pop() {
  Value value = std::move(top());
  stack_.pop_back();
  return value;
}

Items Machine::pop_to_mark() {
  if (marks_.empty()) throw Malformed("its pickle lacks a mark");
  const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  Items items(std::make_move_iterator(first), std::make_move_iterator(stack_.end()));
  stack_.erase(first, stack_.end());
  marks_.pop_back();
  return items;
}

void Machine::get_memo(uint64_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) throw Malformed("its pickle refers to nothing");
  stack_.push_back(found->second);
}

void Machine::make_tuple(std::size_t size) {
  Items items(size);
  for (std::size_t i = size; i-- > 0;) items[i] = pop();
  push_items(std::move(items));
}

void Machine::set_items(const Items& keys_and_values) {
  if (keys_and_values.size() % 2 != 0) throw Malformed("its pickle has a key without a value");
  Dict* dict = as<Dict*>(top(), "a dict");
  for (std::size_t i = 0; i < keys_and_values.size(); i += 2) {
    dict->entries.emplace_back(keys_and_values[i], keys_and_values[i + 1]);
  }
}

void Machine::append_items(Items items) {
  Items* list = as<Items*>(top(), "a list");
  for (Value& item : items) list->push_back(std::move(item));
}

Value Machine::run() {
  for (;;) {
    switch (const auto opcode = static_cast<uint8_t>(code_.take(1)[0])) {
      case 0x80:  // PROTO
        code_.take(1);
        break;
      case '.':  // STOP
        return pop();
      case '(':  // MARK
        marks_.push_back(stack_.size());
        break;
      case 'N':  // NONE
        stack_.emplace_back(None{});
        break;
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        stack_.emplace_back(opcode == 0x88);
        break;
      case 'K':  // BININT1
        stack_.emplace_back(static_cast<int64_t>(code_.number(1)));
        break;
      case 'M':  // BININT2
        stack_.emplace_back(static_cast<int64_t>(code_.number(2)));
        break;
      case 'J':  // BININT
        stack_.emplace_back(int64_t{static_cast<int32_t>(code_.number(4))});
        break;
      case 0x8a: {  // LONG1
        const auto size = static_cast<unsigned>(code_.number(1));
        if (size > 8) throw Malformed("it holds a number of more than 64 bits");
        const uint64_t raw = code_.number(size);
        const unsigned unused = 64 - 8 * size;
        stack_.emplace_back(size == 0 ? int64_t{0} : static_cast<int64_t>(raw << unused) >> unused);
        break;
      }
      case 'G':  // BINFLOAT
        code_.take(8);
        stack_.emplace_back(Opaque{});
        break;
      case 'X':  // BINUNICODE
        stack_.emplace_back(std::string(code_.take(code_.number(4))));
        break;
      case ')':  // EMPTY_TUPLE
      case ']':  // EMPTY_LIST
        push_items({});
        break;
      case '}':  // EMPTY_DICT
        stack_.emplace_back(&dicts_.emplace_back());
        break;
      case 0x85:  // TUPLE1
        make_tuple(1);
        break;
      case 0x86:  // TUPLE2
        make_tuple(2);
        break;
      case 0x87:  // TUPLE3
        make_tuple(3);
        break;
      case 't':  // TUPLE
        push_items(pop_to_mark());
        break;
      case 'q':  // BINPUT
        put_memo(code_.number(1));
        break;
      case 'r':  // LONG_BINPUT
        put_memo(code_.number(4));
        break;
      case 'h':  // BINGET
        get_memo(code_.number(1));
        break;
      case 'j':  // LONG_BINGET
        get_memo(code_.number(4));
        break;
      case 'a':  // APPEND
        append_items({pop()});
        break;
      case 'e':  // APPENDS
        append_items(pop_to_mark());
        break;
      case 'u':  // SETITEMS
        set_items(pop_to_mark());
        break;
      case 's': {  // SETITEM
        Value value = pop();
        Value key = pop();
        set_items({std::move(key), std::move(value)});
        break;
      }
      case 'c': {  // GLOBAL
        std::string name = code_.line();
        name += '.' + code_.line();
        stack_.emplace_back(Global{std::move(name)});
        break;
      }
      case 'Q': {  // BINPERSID
        const Value id = pop();
        stack_.emplace_back(storage(items_of(id, "a storage")));
        break;
      }
      case 'R': {  // REDUCE
        const Value arguments = pop();
        const Value function = pop();
        stack_.push_back(reduce(as<Global>(function, "a function"), items_of(arguments, "arguments")));
        break;
      }
      case 'b':  // BUILD
        // What PyTorch adds to a state_dict: versions of modules, which no tensor needs.
        pop();
        as<Dict*>(top(), "a state_dict");
        break;
      case 0x81: {  // NEWOBJ: Python would call the class
        pop();
        const Value made = pop();
        const auto* type = std::get_if<Global>(&made);
        throw Malformed(
            fmt::format("it holds a whole pickled module or other object (Python class {}), not a dict of tensors",
                        type == nullptr ? "?" : type->name));
      }
      default:
        throw Malformed(fmt::format("it holds more than a dict of tensors (pickle opcode {:#04x})", opcode));
    }
  }
}

Value Machine::reduce(const Global& function, const Items& arguments) {
  const auto& name = function.name;
  if (name == "collections.OrderedDict" && arguments.empty()) return &dicts_.emplace_back();
  if (name == "torch._utils._rebuild_tensor_v2") return tensor(arguments, true);
  if (name == "torch._utils._rebuild_tensor_v3") return tensor(arguments, false);
  // torch.nn.Parameter, and the type that C++'s pickle_save writes beside a dict
  if ((name == "torch._utils._rebuild_parameter" || name == "torch.jit._pickle.restore_type_tag") &&
      !arguments.empty()) {
    return arguments[0];
  }
  throw Malformed(fmt::format("it holds a Python object that is no tensor ({})", name));
}

Storage Machine::storage(const Items& id) const {
  // ("storage", type, key, device, number of elements)
  if (id.size() != 5) throw Malformed("its pickle has a storage of another form");
  return {as<std::string>(id[2], "a storage's name"), type_of_storage(as<Global>(id[1], "a storage's type").name),
          as<int64_t>(id[4], "a storage's size")};
}

at::Tensor Machine::storage_values(const Storage& storage) {
  const auto known = storages_.find(storage.key);
  if (known != storages_.end()) {
    if (known->second.scalar_type() != storage.type || known->second.numel() != storage.count) {
      throw Malformed(fmt::format("two tensors disagree about the storage {}", storage.key));
    }
    return known->second;
  }
  const std::string_view bytes = archive_.member("data/" + storage.key);
  const std::size_t item = c10::elementSize(storage.type);
  if (storage.count < 0 || bytes.size() % item != 0 || bytes.size() / item != static_cast<uint64_t>(storage.count)) {
    throw Malformed(
        fmt::format("the storage {} holds {} bytes, expected {} numbers", storage.key, bytes.size(), storage.count));
  }
  // To C++ a bool of another value is undefined.
  if (storage.type == at::kBool && std::any_of(bytes.begin(), bytes.end(), [](char c) { return c & ~1; })) {
    throw Malformed(fmt::format("the storage {} has bools that are neither 0 nor 1", storage.key));
  }
  at::Tensor values = at::empty({storage.count}, storage.type);
  if (!bytes.empty()) std::memcpy(values.mutable_data_ptr(), bytes.data(), bytes.size());
  return storages_.emplace(storage.key, std::move(values)).first->second;
}

at::Tensor Machine::tensor(const Items& arguments, bool typed_storage) {
  // (storage, offset, shape, strides, requires_grad, hooks[, marks]); v3 has a type before the marks
  const std::size_t before_marks = typed_storage ? 6 : 7;
  if (arguments.size() < (typed_storage ? 4u : 7u) || arguments.size() > before_marks + 1) {
    throw Malformed("its pickle has a tensor of another form");
  }
  at::Tensor values = storage_values(as<Storage>(arguments[0], "a storage"));
  if (!typed_storage) {
    const at::ScalarType type = type_without_storage(as<Global>(arguments[6], "a type").name);
    if (values.scalar_type() != at::kByte) throw Malformed("a tensor of its own type has a storage of another");
    const auto item = static_cast<int64_t>(c10::elementSize(type));
    values = values.narrow(0, 0, values.numel() / item * item).view(type);
  }
  const int64_t offset = as<int64_t>(arguments[1], "an offset");
  const auto integers = [](const Items& items) {
    std::vector<int64_t> result;
    for (const Value& item : items) {
      result.push_back(as<int64_t>(item, "a size"));
      if (result.back() < 0) throw Malformed("a tensor has a negative size");
    }
    return result;
  };
  const std::vector<int64_t> shape = integers(items_of(arguments[2], "a shape"));
  const std::vector<int64_t> strides = integers(items_of(arguments[3], "strides"));
  // The last element must lie in the storage.
  int64_t count = 1, last = offset;
  bool fits = offset >= 0 && shape.size() == strides.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) {
    int64_t reach = 0;
    fits = !__builtin_mul_overflow(count, shape[i], &count) &&
           (shape[i] == 0 ||
            (!__builtin_mul_overflow(shape[i] - 1, strides[i], &reach) && !__builtin_add_overflow(last, reach, &last)));
  }
  if (!fits || (count > 0 && last >= values.numel())) throw Malformed("a tensor reaches beyond its storage");
  const at::Tensor result = at::as_strided(values, shape, strides, count > 0 ? offset : 0);
  const bool marked = arguments.size() > before_marks && !std::holds_alternative<None>(arguments[before_marks]);
  return marked ? resolved(result, *as<Dict*>(arguments[before_marks], "a tensor's marks")) : result;
}

// Of what a training script saves, {"epoch": …, "state_dict": {…}}: the entry that load_pth would take by itself.
std::string where_tensors_are(const Dict& all) {
  for (const auto& [key, value] : all.entries) {
    const auto* name = std::get_if<std::string>(&key);
    const auto* inner = std::get_if<Dict*>(&value);
    if (name == nullptr || inner == nullptr || (*inner)->entries.empty()) continue;
    if (!std::holds_alternative<at::Tensor>((*inner)->entries[0].second)) continue;
    return fmt::format(", but its entry {0} is a dict of tensors: save ['{0}'] alone", *name);
  }
  return "";
}

}  // namespace

NamedTensors read_pickled_tensors(const ZipReader& archive) {
  if (archive.has("byteorder") && archive.member("byteorder") != "little") {
    throw Malformed("its numbers are big-endian");
  }
  Machine machine(archive);
  const Value top = machine.run();
  const auto* dict = std::get_if<Dict*>(&top);
  if (dict == nullptr) throw Malformed("it holds no dict");
  NamedTensors tensors;
  for (const auto& [key, value] : (*dict)->entries) {
    const auto* name = std::get_if<std::string>(&key);
    if (name == nullptr) throw Malformed("a key of its dict is no text");
    const auto* tensor = std::get_if<at::Tensor>(&value);
    if (tensor == nullptr)
      throw Malformed(fmt::format("its entry {} is no tensor{}", *name, where_tensors_are(**dict)));
    tensors.emplace_back(*name, *tensor);
  }
  return tensors;
}

}  // namespace lockstep
